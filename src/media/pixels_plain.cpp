// The kernels as they are defined: for processors without the others, and to test those against.

#include "media/pixels_kernels.h"

namespace keiko::media {
namespace {

int16_t round_multiply(int16_t a, int16_t weight) {
  return int16_t((int(a) * weight + 0x4000) >> 15);
}

// Loops have a fixed length here, so that compilers vectorise them for any processor.
void add_products(const int16_t* in, int16_t weight, int16_t* __restrict sum) {
  for (int i = 0; i < kBand; ++i) sum[i] = int16_t(sum[i] + round_multiply(in[i], weight));
}

void widen_bytes(const uint8_t* in, int16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = int16_t(in[i] * 128 - 0x4000);
}

void widen_words(const uint16_t* in, int left, int right, int16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = int16_t((uint16_t(in[i] << left) >> right) - 0x4000);
}

void blend_rows(const int16_t* const* rows, const int16_t* weights, int taps, int doubling,
                int16_t* out, int n) {
  for (int begin = 0; begin < n; begin += kBand) {
    int16_t sum[kBand] = {};
    for (int k = 0; k < taps; ++k) add_products(rows[k] + begin, weights[k], sum);
    for (int x = 0; x < kBand; ++x) out[begin + x] = int16_t(sum[x] << doubling);
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
    for (int k = 0; k < taps; ++k)
      add_products(in + (first[i] + k) * kBand, weights[i * taps + k], sum);
    for (int r = 0; r < kBand; ++r) out[i * kBand + r] = int16_t(sum[r] << doubling);
  }
}

// From 1/64 level around 128 to bytes, saturating.
void to_bytes(const int* in, uint8_t* out) {
  for (int r = 0; r < kBand; ++r) {
    const int level = (in[r] >> 6) + 128;
    out[r] = uint8_t(level < 0 ? 0 : level > 255 ? 255 : level);
  }
}

void colour(const int16_t* y, const int16_t* u, const int16_t* v, const FixedColour& c, int n,
            uint8_t* red, uint8_t* green, uint8_t* blue) {
  for (int at = 0; at < n * kBand; at += kBand) {
    int r[kBand], g[kBand], b[kBand];
    for (int j = 0; j < kBand; ++j) {
      const int16_t cb = u[at + j], cr = v[at + j];
      const int luma = int16_t(round_multiply(y[at + j], c.luma_gain) + c.luma_add);
      r[j] = luma + int16_t(cr + round_multiply(cr, c.r_v));
      g[j] = luma + int16_t(round_multiply(cb, c.g_u) + round_multiply(cr, c.g_v));
      b[j] = luma + int16_t(cb + round_multiply(cb, c.b_u));
    }
    to_bytes(r, red + at);
    to_bytes(g, green + at);
    to_bytes(b, blue + at);
  }
}

void gray(const int16_t* y, const FixedColour& c, int n, uint8_t* out) {
  for (int at = 0; at < n * kBand; at += kBand) {
    int level[kBand];
    for (int r = 0; r < kBand; ++r)
      level[r] = int16_t(round_multiply(y[at + r], c.luma_gain) + c.luma_add);
    to_bytes(level, out + at);
  }
}

void place(const uint8_t* in, int n, int rows, uint8_t* out, int64_t right, int64_t down) {
  for (int r = 0; r < rows; ++r)
    for (int x = 0; x < n; ++x) out[x * right + r * down] = in[x * kBand + r];
}

}  // namespace

const PixelKernels kPlainKernels = {widen_bytes,   widen_words, blend_rows, turn_band,
                                    blend_columns, colour,      gray,       place};

}  // namespace keiko::media
