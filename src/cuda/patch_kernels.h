// Patches and reconstruction targets straight from uint8 clips, on a device: only the tokens that
// are asked for, in one pass over their pixels.
//
// What src/model/patches.h does on the CPU, on plain pointers, because this room knows no tensors.
// All memory is of the stream's device, contiguous, and the caller's; it must stay until the stream
// has done the work, which is only added here. Which tokens are asked for is not checked: the ids
// would have to come to the host. Each function throws Error(kInternal) for sizes that do not fit,
// Error(kIo) when the device fails, Error(kUsage) in a build without CUDA. Any thread; one stream,
// one thread at a time.

#pragma once
#include "cuda/patch_arithmetic.h"
#include "cuda/stream.h"

namespace keiko::cuda {

enum class PatchType { kFloat32, kBfloat16 };  // of patches, targets and predictions

// `patches` [clips, kept, P]: (x / 255 - mean) / std with ImageNet's, in the order channel, frame,
// row, column.
void take_patches(const PatchInput& input, PatchType type, void* patches, const Stream& stream);

// `targets` [clips, kept, P] in the order frame, row, column, channel.
void take_targets(const PatchInput& input, PatchTarget unit, PatchType type, void* targets,
                  const Stream& stream);

// `errors` [clips, kept]: mean squared difference of each patch between `predicted` [clips, kept,
// P] and its target in float32. Targets are made as they are needed, and never kept. The same bits
// every time.
void target_errors(const PatchInput& input, PatchTarget unit, PatchType type, const void* predicted,
                   float* errors, const Stream& stream);

// `gradient` [clips, kept, P], of `type`: of the sum of errors times `upstream` [clips, kept], by
// `predicted`. May be `predicted` itself.
void target_errors_backward(const PatchInput& input, PatchTarget unit, PatchType type,
                            const void* predicted, const float* upstream, void* gradient,
                            const Stream& stream);

// The same on the CPU and host memory, to the bit; slow.
namespace reference {
void take_patches(const PatchInput& input, PatchType type, void* patches);
void take_targets(const PatchInput& input, PatchTarget unit, PatchType type, void* targets);
void target_errors(const PatchInput& input, PatchTarget unit, PatchType type, const void* predicted,
                   float* errors);
void target_errors_backward(const PatchInput& input, PatchTarget unit, PatchType type,
                            const void* predicted, const float* upstream, void* gradient);
}  // namespace reference

}  // namespace keiko::cuda
