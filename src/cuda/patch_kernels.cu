#include <cuda_runtime.h>

#include "cuda/patch_kernels.cuh"

namespace keiko::cuda {
namespace {

unsigned blocks_of(const PatchInput& input) { return unsigned(input.patches()); }

}  // namespace

template <class T>
int launch_make_patches(const PatchInput& input, bool is_wide, T* patches, StreamHandle stream) {
  if (is_wide)
    make_patches<T, kWidePatch><<<blocks_of(input), kPatchLanes, 0, stream>>>(input, patches);
  else
    make_patches<T, 1><<<blocks_of(input), kPatchLanes, 0, stream>>>(input, patches);
  return int(cudaGetLastError());
}

template <class T>
int launch_make_targets(const PatchInput& input, PatchTarget unit, T* targets,
                        StreamHandle stream) {
  make_targets<T><<<blocks_of(input), kPatchLanes, 0, stream>>>(input, unit, targets);
  return int(cudaGetLastError());
}

template <class T>
int launch_sum_errors(const PatchInput& input, PatchTarget unit, const T* predicted, float* errors,
                      StreamHandle stream) {
  sum_errors<T><<<blocks_of(input), kPatchLanes, 0, stream>>>(input, unit, predicted, errors);
  return int(cudaGetLastError());
}

template <class T>
int launch_differentiate_errors(const PatchInput& input, PatchTarget unit, const T* predicted,
                                const float* upstream, T* gradient, StreamHandle stream) {
  differentiate_errors<T>
      <<<blocks_of(input), kPatchLanes, 0, stream>>>(input, unit, predicted, upstream, gradient);
  return int(cudaGetLastError());
}

template int launch_make_patches(const PatchInput&, bool, float*, StreamHandle);
template int launch_make_patches(const PatchInput&, bool, Bfloat16*, StreamHandle);
template int launch_make_targets(const PatchInput&, PatchTarget, float*, StreamHandle);
template int launch_make_targets(const PatchInput&, PatchTarget, Bfloat16*, StreamHandle);
template int launch_sum_errors(const PatchInput&, PatchTarget, const float*, float*, StreamHandle);
template int launch_sum_errors(const PatchInput&, PatchTarget, const Bfloat16*, float*,
                               StreamHandle);
template int launch_differentiate_errors(const PatchInput&, PatchTarget, const float*, const float*,
                                         float*, StreamHandle);
template int launch_differentiate_errors(const PatchInput&, PatchTarget, const Bfloat16*,
                                         const float*, Bfloat16*, StreamHandle);

}  // namespace keiko::cuda
