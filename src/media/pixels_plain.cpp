// The kernels as they are defined: for processors without the others, and to test those against.

#include "media/pixels_kernels.h"

namespace keiko::media {
namespace {

int16_t round_multiply(int16_t a, int16_t weight) {
  return int16_t((int(a) * weight + 0x4000) >> 15);
}

void widen_bytes(const uint8_t* in, int16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = int16_t(in[i] * 128 - 0x4000);
}

void widen_words(const uint16_t* in, int left, int right, int16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = int16_t((uint16_t(in[i] << left) >> right) - 0x4000);
}

void blend_rows(const int16_t* const* rows, const int16_t* weights, int taps, int doubling,
                int16_t* out, int n) {
  constexpr int kBlock = 64;  // sums stay in registers or the first cache
  for (int begin = 0; begin < n; begin += kBlock) {
    const int count = n - begin < kBlock ? n - begin : kBlock;
    int16_t sum[kBlock] = {};
    for (int k = 0; k < taps; ++k)
      for (int x = 0; x < count; ++x)
        sum[x] = int16_t(sum[x] + round_multiply(rows[k][begin + x], weights[k]));
    for (int x = 0; x < count; ++x) out[begin + x] = int16_t(sum[x] << doubling);
  }
}

void turn_band(const int16_t* in, int64_t stride, int n, int16_t* out) {
  for (int x = 0; x < n; ++x)
    for (int r = 0; r < kBand; ++r) out[x * kBand + r] = in[r * stride + x];
}

void blend_columns(const int16_t* in, const int* first, const int16_t* weights, int taps,
                   int doubling, int n, int /*rows*/, int16_t* out) {
  for (int i = 0; i < n; ++i) {
    int16_t sum[kBand] = {};
    for (int k = 0; k < taps; ++k) {
      const int16_t* column = in + (first[i] + k) * kBand;
      const int16_t weight = weights[i * taps + k];
      for (int r = 0; r < kBand; ++r) sum[r] = int16_t(sum[r] + round_multiply(column[r], weight));
    }
    for (int r = 0; r < kBand; ++r) out[i * kBand + r] = int16_t(sum[r] << doubling);
  }
}

// From 1/64 level around 128 to a byte, saturating.
uint8_t to_byte(int value) {
  const int level = (value >> 6) + 128;
  return uint8_t(level < 0 ? 0 : level > 255 ? 255 : level);
}

void colour(const int16_t* y, const int16_t* u, const int16_t* v, const FixedColour& c, int n,
            int /*rows*/, uint8_t* red, uint8_t* green, uint8_t* blue) {
  for (int i = 0; i < n * kBand; ++i) {
    const int luma = int16_t(round_multiply(y[i], c.luma_gain) + c.luma_add);
    red[i] = to_byte(luma + int16_t(v[i] + round_multiply(v[i], c.r_v)));
    green[i] = to_byte(luma + int16_t(round_multiply(u[i], c.g_u) + round_multiply(v[i], c.g_v)));
    blue[i] = to_byte(luma + int16_t(u[i] + round_multiply(u[i], c.b_u)));
  }
}

void gray(const int16_t* y, const FixedColour& c, int n, int /*rows*/, uint8_t* out) {
  for (int i = 0; i < n * kBand; ++i)
    out[i] = to_byte(int16_t(round_multiply(y[i], c.luma_gain) + c.luma_add));
}

void place(const uint8_t* in, int n, int rows, uint8_t* out, int64_t right, int64_t down) {
  for (int r = 0; r < rows; ++r)
    for (int x = 0; x < n; ++x) out[x * right + r * down] = in[x * kBand + r];
}

}  // namespace

const PixelKernels kPlainKernels = {widen_bytes,   widen_words, blend_rows, turn_band,
                                    blend_columns, colour,      gray,       place};

}  // namespace keiko::media
