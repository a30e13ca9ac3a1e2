// The kernels of patches and targets. nvcc compiles them for the device (patch_kernels.cu), g++ for
// a test that runs their threads one after the other on the CPU (emulation_for_tests.h).
//
// A block of kPatchLanes threads makes one patch, so that its statistics and its sum of errors stay
// in shared memory, and neighbouring threads write neighbouring values. Patches of four pixels and
// their multiples are read and written four at a time.

#pragma once
#include "cuda/patch_launch.h"

namespace keiko::cuda {

// Neighbours that one load or store moves.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Neighbours {
  T values[kCount];
};

// `kWide`: pixels a thread takes at once; divides patch_size, and all pointers are so aligned.
template <class T, int kWide>
__global__ void make_patches(const PatchInput input, T* patches) {
  const int64_t patch = blockIdx.x;
  const uint8_t* origin = patch_origin(input, patch);
  T* out = patches + patch * input.patch_values();
  const int32_t n = int32_t(input.grid.channel_values());
  for (int32_t i = int32_t(threadIdx.x) * kWide; i < 3 * n; i += kPatchLanes * kWide) {
    const int32_t channel = i / n;
    const auto levels = *reinterpret_cast<const Neighbours<uint8_t, kWide>*>(
        origin + pixel_offset(input.grid, channel, i - channel * n));
    Neighbours<T, kWide> made;
    for (int32_t k = 0; k < kWide; ++k)
      store_float(normalised_level(levels.values[k], channel), &made.values[k]);
    *reinterpret_cast<Neighbours<T, kWide>*>(out + i) = made;
  }
}

// What the threads of a block share.
struct PatchScratch {
  uint64_t sums[6][kPatchLanes];  // levels and their squares, of the three channels
  double errors[kPatchLanes];
  PatchStatistics statistics[3];
};

// Adds `sums` of all threads into the first; every thread must come here.
template <class T>
__device__ void add_lanes(T* sums) {
  for (int32_t half = kPatchLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int32_t(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
}

// Fills scratch.statistics, for kPatch alone; every thread must come here.
__device__ inline void share_statistics(const PatchInput& input, const uint8_t* origin,
                                        PatchTarget unit, PatchScratch& scratch) {
  if (unit != PatchTarget::kPatch) return;
  const int32_t n = int32_t(input.grid.channel_values());
  for (int32_t channel = 0; channel < 3; ++channel) {
    uint64_t sum = 0, squares = 0;
    for (int32_t i = int32_t(threadIdx.x); i < n; i += kPatchLanes) {
      const uint64_t level = origin[pixel_offset(input.grid, channel, i)];
      sum += level;
      squares += level * level;
    }
    scratch.sums[2 * channel][threadIdx.x] = sum;
    scratch.sums[2 * channel + 1][threadIdx.x] = squares;
  }
  for (int32_t i = 0; i < 6; ++i) add_lanes(scratch.sums[i]);
  if (threadIdx.x < 3)
    scratch.statistics[threadIdx.x] =
        patch_statistics(scratch.sums[2 * threadIdx.x][0], scratch.sums[2 * threadIdx.x + 1][0], n);
  __syncthreads();
}

template <class T>
__global__ void make_targets(const PatchInput input, PatchTarget unit, T* targets) {
  KEIKO_SHARED(PatchScratch, scratch);
  const int64_t patch = blockIdx.x;
  const uint8_t* origin = patch_origin(input, patch);
  share_statistics(input, origin, unit, scratch);
  const int32_t values = int32_t(input.patch_values());
  for (int32_t i = int32_t(threadIdx.x); i < values; i += kPatchLanes)
    store_float(target_value(input.grid, origin, unit, scratch.statistics, i),
                targets + patch * values + i);
}

template <class T>
__global__ void sum_errors(const PatchInput input, PatchTarget unit, const T* predicted,
                           float* errors) {
  KEIKO_SHARED(PatchScratch, scratch);
  const int64_t patch = blockIdx.x;
  const uint8_t* origin = patch_origin(input, patch);
  share_statistics(input, origin, unit, scratch);
  const int32_t values = int32_t(input.patch_values());
  const T* said = predicted + patch * values;
  float sum = 0;
  for (int32_t i = int32_t(threadIdx.x); i < values; i += kPatchLanes)
    sum = add_square(sum, load_float(said + i),
                     target_value(input.grid, origin, unit, scratch.statistics, i));
  scratch.errors[threadIdx.x] = double(sum);
  add_lanes(scratch.errors);
  if (threadIdx.x == 0) errors[patch] = float(scratch.errors[0] / double(values));
}

template <class T>
__global__ void differentiate_errors(const PatchInput input, PatchTarget unit, const T* predicted,
                                     const float* upstream, T* gradient) {
  KEIKO_SHARED(PatchScratch, scratch);
  const int64_t patch = blockIdx.x;
  const uint8_t* origin = patch_origin(input, patch);
  share_statistics(input, origin, unit, scratch);
  const int32_t values = int32_t(input.patch_values());
  const float above = upstream[patch];
  for (int32_t i = int32_t(threadIdx.x); i < values; i += kPatchLanes) {
    const int64_t at = patch * values + i;
    store_float(error_gradient(load_float(predicted + at),
                               target_value(input.grid, origin, unit, scratch.statistics, i), above,
                               values),
                gradient + at);
  }
}

}  // namespace keiko::cuda
