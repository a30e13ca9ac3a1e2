// The inner loops of FixedPointPixels, once for each instruction set, all with the same results.
//
// A sample is an int16 in 1/128 of an 8-bit level, minus 128 levels. Its product with a weight is
// rounded at once, round_multiply(a, w) = (a * w + 2^14) >> 15, so that everything stays 16 bits
// wide; sums wrap. Pictures are made in bands of kBand rows, and after the rows are blended a band
// is stored by columns: element (column x, row r) lies at x * kBand + r.

#pragma once
#include <cstdint>

namespace keiko::media {

constexpr int kBand = 32;  // rows; what one register of the widest instruction set holds

// The colour equations on such samples; results are in 1/64 level, then floored to levels.
struct FixedColour {
  int16_t luma_gain = 0, luma_add = 0;  // round_multiply(y, luma_gain) + luma_add
  int16_t r_v = 0, b_u = 0;             // v + round_multiply(v, r_v)
  int16_t g_u = 0, g_v = 0;             // round_multiply(u, g_u) + round_multiply(v, g_v)
};

// `doubling` is 0 or 1: how far results are shifted left. No alignment is asked for.
struct PixelKernels {
  // out[i] = in[i] * 128 - 2^14
  void (*widen_bytes)(const uint8_t* in, int16_t* out, int n);
  // out[i] = (in[i] << left >> right) - 2^14
  void (*widen_words)(const uint16_t* in, int left, int right, int16_t* out, int n);
  // out[x] = sum over k of round_multiply(rows[k][x], weights[k]), for x in [0, n). Rows and out
  // may be read and written up to the next multiple of kBand.
  void (*blend_rows)(const int16_t* const* rows, const int16_t* weights, int taps, int doubling,
                     int16_t* out, int n);
  // out[x * kBand + r] = in[r * stride + x] for x in [0, n), all kBand rows. Columns may be read
  // and written up to the next multiple of 8.
  void (*turn_band)(const int16_t* in, int64_t stride, int n, int16_t* out);
  // out[i * kBand + r] = sum over k of round_multiply(in[(first[i] + k) * kBand + r],
  // weights[i * taps + k]), for i in [0, n), r in [0, rows). Rows may be written up to kBand.
  void (*blend_columns)(const int16_t* in, const int* first, const int16_t* weights, int taps,
                        int doubling, int n, int rows, int16_t* out);
  // Bytes from samples, in the layout of blend_columns, n columns of kBand rows.
  void (*colour)(const int16_t* y, const int16_t* u, const int16_t* v, const FixedColour& colour,
                 int n, uint8_t* red, uint8_t* green, uint8_t* blue);
  void (*gray)(const int16_t* y, const FixedColour& colour, int n, uint8_t* out);
  // out[x * right + r * down] = in[x * kBand + r] for x in [0, n), r in [0, rows). Either |right|
  // or |down| is 1.
  void (*place)(const uint8_t* in, int n, int rows, uint8_t* out, int64_t right, int64_t down);
};

extern const PixelKernels kPlainKernels;
// Null when the compiler or the architecture does not have them.
extern const PixelKernels* const kSse2Kernels;
extern const PixelKernels* const kAvx2Kernels;
extern const PixelKernels* const kAvx512Kernels;

}  // namespace keiko::media
