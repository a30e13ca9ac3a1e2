#include "data/geometric.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace keiko::data {
namespace {

constexpr int kBorder = 2;  // a bicubic filter reaches one pixel before and two after
constexpr int kBits = 11;   // of fractions: two of them and a byte fit an int32
constexpr int kOne = 1 << kBits;

// Taps of Pillow's bicubic transform filter for each fraction; they sum to kOne.
using Taps = std::array<int16_t, 4>;
const std::array<Taps, kOne + 1>& cubic_taps() {
  static const auto table = [] {
    std::array<Taps, kOne + 1> taps;
    for (int i = 0; i <= kOne; ++i) {
      const double d = double(i) / kOne, d2 = d * d, d3 = d2 * d;
      Taps& t = taps[size_t(i)];
      t[0] = int16_t(std::lround(kOne * (-d + 2 * d2 - d3)));
      t[2] = int16_t(std::lround(kOne * (d + d2 - d3)));
      t[3] = int16_t(std::lround(kOne * (-d2 + d3)));
      t[1] = int16_t(kOne - t[0] - t[2] - t[3]);
    }
    return taps;
  }();
  return table;
}

// A value at 4 x 4 pixels from `in` on, rows `stride` apart, in 2048ths of 2048ths. All of it fits
// an int32: the taps' absolute values sum to less than 1.3 in each direction.
int32_t cubic_plain(const uint8_t* in, int stride, const Taps& across, const Taps& down) {
  int32_t sum = 0;
  for (size_t row = 0; row < 4; ++row, in += stride)
    sum +=
        down[row] * (across[0] * in[0] + across[1] * in[1] + across[2] * in[2] + across[3] * in[3]);
  return sum;
}

#ifdef __SSE2__
// The same integers, columns first: a row of four pixels is one load.
int32_t cubic_sse2(const uint8_t* in, int stride, const Taps& across, const Taps& down) {
  const auto row = [&](int y) {
    int32_t four;
    std::memcpy(&four, in + y * stride, 4);
    return _mm_cvtsi32_si128(four);
  };
  const __m128i zero = _mm_setzero_si128();
  const __m128i taps = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(down.data()));
  const __m128i upper = _mm_unpacklo_epi8(_mm_unpacklo_epi8(row(0), row(1)), zero);
  const __m128i lower = _mm_unpacklo_epi8(_mm_unpacklo_epi8(row(2), row(3)), zero);
  const __m128i columns = _mm_add_epi32(_mm_madd_epi16(upper, _mm_shuffle_epi32(taps, 0x00)),
                                        _mm_madd_epi16(lower, _mm_shuffle_epi32(taps, 0x55)));
  // SSE2 multiplies two lanes at a time, to 64 bits without sign: their lower halves are right.
  __m128i w = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(across.data()));
  w = _mm_srai_epi32(_mm_unpacklo_epi16(zero, w), 16);
  const __m128i even = _mm_mul_epu32(columns, w);
  const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(columns, 32), _mm_srli_epi64(w, 32));
  const __m128i two = _mm_add_epi32(even, odd);
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
}
#endif

double rounded_to_15_digits(double value) { return std::round(value * 1e15) / 1e15; }

}  // namespace

Affine rotation(double degrees, int width, int height) {
  const double angle = -degrees * (std::numbers::pi / 180);
  const double cosine = rounded_to_15_digits(std::cos(angle));
  const double sine = rounded_to_15_digits(std::sin(angle));
  const double x = width / 2.0, y = height / 2.0;
  return {cosine, sine, -cosine * x - sine * y + x, -sine, cosine, sine * x - cosine * y + y};
}

Affine shear_x(double shear) { return {1, shear, 0, 0, 1, 0}; }
Affine shear_y(double shear) { return {1, 0, 0, shear, 1, 0}; }
Affine translation_x(double pixels) { return {1, 0, pixels, 0, 1, 0}; }
Affine translation_y(double pixels) { return {1, 0, 0, 0, 1, pixels}; }

void Warp::prepare(const Affine& map, int width, int height, bool bicubic) {
  width_ = width;
  height_ = height;
  bicubic_ = bicubic;
  sources_.resize(size_t(width) * size_t(height));
  first_.assign(size_t(height), 0);
  last_.assign(size_t(height), 0);
  const int stride = width + 2 * kBorder;
  for (int y = 0; y < height; ++y) {
    bool any = false;
    for (int x = 0; x < width; ++x) {
      const double in_x = map.a * (x + 0.5) + map.b * (y + 0.5) + map.c;
      const double in_y = map.d * (x + 0.5) + map.e * (y + 0.5) + map.f;
      if (!(in_x >= 0 && in_x < width && in_y >= 0 && in_y < height)) continue;
      // A picture is convex, so the outputs of a row that come from inside are neighbours.
      if (!any) first_[size_t(y)] = x;
      any = true;
      last_[size_t(y)] = x + 1;
      // Both are at least 0, where cutting off is rounding down.
      const int left = int(in_x + 0.5) - 1, top = int(in_y + 0.5) - 1;
      Source& source = sources_[size_t(y) * size_t(width) + size_t(x)];
      source.offset = (top + kBorder) * stride + left + kBorder;
      source.dx = uint16_t((in_x - 0.5 - left) * kOne + 0.5);
      source.dy = uint16_t((in_y - 0.5 - top) * kOne + 0.5);
    }
  }
}

void Warp::apply(uint8_t* plane, uint8_t fill, [[maybe_unused]] bool plain) {
  const int stride = width_ + 2 * kBorder;
  padded_.resize(size_t(stride) * size_t(height_ + 2 * kBorder));
  for (int y = -kBorder; y < height_ + kBorder; ++y) {
    const uint8_t* row = plane + int64_t{std::clamp(y, 0, height_ - 1)} * width_;
    uint8_t* out = padded_.data() + int64_t{y + kBorder} * stride;
    std::memset(out, row[0], kBorder);
    std::memcpy(out + kBorder, row, size_t(width_));
    std::memset(out + kBorder + width_, row[width_ - 1], kBorder);
  }
  const auto& taps = cubic_taps();
  for (int y = 0; y < height_; ++y) {
    uint8_t* out = plane + int64_t{y} * width_;
    const Source* source = sources_.data() + int64_t{y} * width_;
    const int first = first_[size_t(y)], last = last_[size_t(y)];
    std::memset(out, fill, size_t(first));
    std::memset(out + last, fill, size_t(width_ - last));
    if (bicubic_) {
      const auto warp_row = [&](auto cubic) {
        for (int x = first; x < last; ++x) {
          const uint8_t* in = padded_.data() + source[x].offset - stride - 1;
          const int32_t sum = cubic(in, stride, taps[source[x].dx], taps[source[x].dy]);
          out[x] = uint8_t(std::clamp(sum >> (2 * kBits), 0, 255));
        }
      };
#ifdef __SSE2__
      if (!plain) {
        warp_row([](const auto&... a) { return cubic_sse2(a...); });
        continue;
      }
#endif
      warp_row([](const auto&... a) { return cubic_plain(a...); });
    } else {
      for (int x = first; x < last; ++x) {
        const uint8_t* in = padded_.data() + source[x].offset;
        const int32_t dx = source[x].dx, dy = source[x].dy;
        const int32_t upper = (in[0] << kBits) + (in[1] - in[0]) * dx;
        const int32_t lower = (in[stride] << kBits) + (in[stride + 1] - in[stride]) * dx;
        out[x] = uint8_t(((upper << kBits) + (lower - upper) * dy) >> (2 * kBits));
      }
    }
  }
}

}  // namespace keiko::data
