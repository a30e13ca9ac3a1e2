// What patches and reconstruction targets are, value by value: shared by the kernels
// (patch_kernels.cuh) and their references (patch_reference.cpp), which therefore agree to the bit.
//
// The same numbers as src/model/patches.h says them for tensors: patches and targets to the bit,
// sums of errors up to the order of additions, which is fixed here.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/host_device.h"

namespace keiko::cuda {

// A clip's tokens: token (time * rows + row) * columns + column.
struct PatchGrid {
  int64_t times = 0, rows = 0, columns = 0;  // tokens along each axis
  int64_t tubelet_size = 0, patch_size = 0;  // frames; pixels

  KEIKO_HOST_DEVICE int64_t channel_values() const {
    return tubelet_size * patch_size * patch_size;
  }
};

// Which patches of which clips. Pointers are to memory of whoever computes.
struct PatchInput {
  const uint8_t* video = nullptr;  // [clips, 3, times * tubelet, rows * patch, columns * patch]
  const int64_t* ids = nullptr;    // [clips, kept], tokens in [0, times * rows * columns)
  int64_t clips = 0, kept = 0;
  PatchGrid grid;

  int64_t patches() const { return clips * kept; }
  KEIKO_HOST_DEVICE int64_t patch_values() const { return 3 * grid.channel_values(); }
};

enum class PatchTarget {
  kUnit,      // [0, 1]
  kImageNet,  // minus ImageNet's mean, over its standard deviation
  kPatch,     // minus the mean, over sqrt(unbiased variance) + 1e-6, of each patch and channel
};

// The upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

KEIKO_HOST_DEVICE void store_float(float value, float* to) { *to = value; }
// To nearest, ties to even.
KEIKO_HOST_DEVICE void store_float(float value, Bfloat16* to) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to->bits =
      is_nan ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
KEIKO_HOST_DEVICE float load_float(const float* from) { return *from; }
KEIKO_HOST_DEVICE float load_float(const Bfloat16* from) {
  const uint32_t bits = uint32_t(from->bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// The first red pixel of patch `i` (of all clips * kept).
KEIKO_HOST_DEVICE const uint8_t* patch_origin(const PatchInput& in, int64_t i) {
  const PatchGrid& g = in.grid;
  const int64_t width = g.columns * g.patch_size, frame = g.rows * g.patch_size * width;
  const int64_t spatial = g.rows * g.columns, token = load_constant(in.ids + i);
  return in.video + i / in.kept * 3 * g.times * g.tubelet_size * frame +
         token / spatial * g.tubelet_size * frame +
         token % spatial / g.columns * g.patch_size * width + token % g.columns * g.patch_size;
}

// From there to pixel `i` of `channel`, in the order frame, row, column.
KEIKO_HOST_DEVICE int64_t pixel_offset(const PatchGrid& g, int32_t channel, int32_t i) {
  const int32_t p = int32_t(g.patch_size), in_frame = i % (p * p);
  const int64_t width = g.columns * p, frame = g.rows * p * width;
  return (channel * g.times * g.tubelet_size + i / (p * p)) * frame + in_frame / p * width +
         in_frame % p;
}

// ImageNet's statistics of RGB in [0, 1], rounded to float32 as every published recipe has them.
KEIKO_HOST_DEVICE float normalised_level(uint8_t level, int32_t channel) {
  const float mean = channel == 0 ? 0.485f : channel == 1 ? 0.456f : 0.406f;
  const float deviation = channel == 0 ? 0.229f : channel == 1 ? 0.224f : 0.225f;
  return (float(level) / 255.0f - mean) / deviation;
}

// Of the levels of one channel of a patch.
struct PatchStatistics {
  int32_t near;  // the whole number nearest to the mean
  float rest;    // the mean without it
  float factor;  // one over the standard deviation
};

// Sums of whole numbers are exact, so their order is free, and the difference of a level to a whole
// number near the mean is exact too.
KEIKO_HOST_DEVICE PatchStatistics patch_statistics(uint64_t sum, uint64_t squares, int64_t n) {
  const double mean = double(sum) / double(n);
  const double variance = double(uint64_t(n) * squares - sum * sum) / (double(n) * double(n - 1));
  PatchStatistics s;
  s.near = int32_t(lround(mean));
  s.rest = float(mean - s.near);
  s.factor = float(1 / (sqrt(variance) + 255e-6));
  return s;
}

// Value `i` of a patch's target, in the order frame, row, column, channel. `statistics`: of the
// three channels, read for kPatch alone.
KEIKO_HOST_DEVICE float target_value(const PatchGrid& g, const uint8_t* origin, PatchTarget unit,
                                     const PatchStatistics* statistics, int32_t i) {
  const int32_t channel = i % 3;
  const uint8_t level = load_constant(origin + pixel_offset(g, channel, i / 3));
  if (unit == PatchTarget::kUnit) return float(level) / 255.0f;
  if (unit == PatchTarget::kImageNet) return normalised_level(level, channel);
  const PatchStatistics& s = statistics[channel];
  return (float(int32_t(level) - s.near) - s.rest) * s.factor;
}

// A patch's squared errors are added in this many sums, value i in sum i % kPatchLanes, which are
// then halved in number by pairs: sum j and sum j + half. One lane is one thread of a kernel.
constexpr int32_t kPatchLanes = 128;

KEIKO_HOST_DEVICE float add_square(float sum, float said, float target) {
  return fmaf(said - target, said - target, sum);
}

// The gradient of the mean squared difference of a patch of `values`, times what comes from above.
KEIKO_HOST_DEVICE float error_gradient(float said, float target, float upstream, int64_t values) {
  return (said - target) * (upstream * float(2.0 / double(values)));
}

}  // namespace keiko::cuda
