// The launches of the kernels of patches and targets, alone in a header that nvcc can read.
//
// One block a patch. Each returns a cudaError_t; the stream is of the calling thread's device.

#pragma once
#include "cuda/device.h"
#include "cuda/patch_arithmetic.h"

namespace keiko::cuda {

// T is float or Bfloat16. `is_wide`: as fits_wide_patches() says.
template <class T>
int launch_make_patches(const PatchInput& input, bool is_wide, T* patches, StreamHandle stream);
template <class T>
int launch_make_targets(const PatchInput& input, PatchTarget unit, T* targets, StreamHandle stream);
template <class T>
int launch_sum_errors(const PatchInput& input, PatchTarget unit, const T* predicted, float* errors,
                      StreamHandle stream);
template <class T>
int launch_differentiate_errors(const PatchInput& input, PatchTarget unit, const T* predicted,
                                const float* upstream, T* gradient, StreamHandle stream);

constexpr int kWidePatch = 4;  // pixels that a thread takes at once where that can be

// Whether rows of patches can be read, and patches written, kWidePatch pixels at a time.
template <class T>
bool fits_wide_patches(const PatchInput& input, const T* patches) {
  return input.grid.patch_size % kWidePatch == 0 &&
         reinterpret_cast<uintptr_t>(input.video) % kWidePatch == 0 &&
         reinterpret_cast<uintptr_t>(patches) % (kWidePatch * sizeof(T)) == 0;
}

}  // namespace keiko::cuda
