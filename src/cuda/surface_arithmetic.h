// What one output pixel is, from the samples of a decoder's surface: shared by the kernel
// (surface_kernels.cu) and the reference (surface_pixels_reference.cpp), which therefore agree to
// the bit.
//
// docs/architecture.md, "Pixels", in float32: rows are blended, then columns, then the colour
// equations, then one rounding.

#pragma once
#include <cmath>
#include <cstdint>

#include "cuda/host_device.h"

namespace keiko::cuda {

// One axis of a plane: output i is the sum of weights[i * taps + k] * input[first[i] + k].
struct SurfaceAxis {
  const int32_t* first;  // one for each output, never descending
  const float* weights;
  int32_t taps;
};

// One component: sample (x, y) is bits [shift, 16) or [0, 8) of samples[y * stride + x * step].
struct SurfacePlane {
  const void* samples;  // of 1 or 2 bytes
  int64_t stride;       // samples from row to row
  int32_t step;         // samples from column to column; 2 when another component lies between
  int32_t shift;        // bits below the value
};

// red = luma_gain * (y - luma_offset) + r_v * (v - middle), and so on: media::ColourEquations.
struct SurfaceColour {
  float luma_offset, luma_gain, middle, r_v, g_u, g_v, b_u;
};

// All that a conversion needs; pointers are to memory of whoever computes.
struct SurfaceTask {
  SurfacePlane luma, chroma[2];
  SurfaceAxis luma_x, luma_y, chroma_x, chroma_y;
  SurfaceColour colour;
  int32_t has_chroma;          // 0: a grey picture
  int32_t width, height;       // of the resized, not yet turned picture
  uint8_t* slot[3];            // red, green, blue
  int64_t start, right, down;  // column x of row y goes to start + x * right + y * down
};

// Column `x` of a plane, blended over the rows of output row `y`.
template <class Sample>
KEIKO_HOST_DEVICE float blend_rows(const SurfacePlane& plane, const SurfaceAxis& rows, int32_t y,
                                   int32_t x) {
  const Sample* at = static_cast<const Sample*>(plane.samples) +
                     load_constant(rows.first + y) * plane.stride + int64_t(x) * plane.step;
  const float* weights = rows.weights + int64_t(y) * rows.taps;
  float sum = 0;
  for (int32_t k = 0; k < rows.taps; ++k, at += plane.stride)
    sum = fmaf(load_constant(weights + k), float(load_constant(at) >> plane.shift), sum);
  return sum;
}

// Output column `x`; `blended[k]` is input column columns.first[x] + k, blended over rows.
KEIKO_HOST_DEVICE float blend_columns(const float* blended, const SurfaceAxis& columns, int32_t x) {
  const float* weights = columns.weights + int64_t(x) * columns.taps;
  float sum = 0;
  for (int32_t k = 0; k < columns.taps; ++k)
    sum = fmaf(load_constant(weights + k), blended[k], sum);
  return sum;
}

KEIKO_HOST_DEVICE uint8_t round_to_byte(float value) {
  return uint8_t(fminf(fmaxf(floorf(value + 0.5f), 0.0f), 255.0f));
}

// Writes the pixel of column `x` and row `y` of the resized picture.
KEIKO_HOST_DEVICE void store_pixel(const SurfaceTask& task, int32_t x, int32_t y, float luma,
                                   float u, float v) {
  const SurfaceColour& c = task.colour;
  const int64_t to = task.start + x * task.right + y * task.down;
  const float grey = (luma - c.luma_offset) * c.luma_gain;
  if (!task.has_chroma) {
    task.slot[0][to] = task.slot[1][to] = task.slot[2][to] = round_to_byte(grey);
    return;
  }
  u -= c.middle;
  v -= c.middle;
  task.slot[0][to] = round_to_byte(fmaf(c.r_v, v, grey));
  task.slot[1][to] = round_to_byte(fmaf(c.g_v, v, fmaf(c.g_u, u, grey)));
  task.slot[2][to] = round_to_byte(fmaf(c.b_u, u, grey));
}

}  // namespace keiko::cuda
