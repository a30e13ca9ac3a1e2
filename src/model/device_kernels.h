// What a device brings of its own for patches and reconstruction targets.
//
// This room knows no CUDA. Whoever sees both (train, cli) registers kernels for a kind of device,
// and patches.h hands its tensors to them; without, it computes the same in tensor operations,
// slower and through whole patched clips.

#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

#include <memory>

#include "model/patches.h"

namespace keiko::model {

// Each function does what patches.h says of the one of its name. All tensors are on one device of
// the kind it was registered for, contiguous, and fit the grid; results are contiguous, there too.
// Numbers are kFloat: for other dtypes patches.h takes tensor operations. The work is added to
// torch's current stream of the tensors' device, and nobody waits for it. Called from several
// threads: autograd has its own for each GPU.
class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;
  // [B, K, P].
  virtual at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids,
                                  const TokenGrid& grid) const = 0;
  // [B, M, P].
  virtual at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids,
                                  const TokenGrid& grid, TargetUnit unit) const = 0;
  // `predicted` [B, M, P] -> [B, M]. No graph.
  virtual at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                                   const at::Tensor& ids, const TokenGrid& grid,
                                   TargetUnit unit) const = 0;
  // The gradient of the sum of errors times `upstream` [B, M], by `predicted`: [B, M, P].
  virtual at::Tensor target_errors_backward(const at::Tensor& upstream, const at::Tensor& predicted,
                                            const at::Tensor& video, const at::Tensor& ids,
                                            const TokenGrid& grid, TargetUnit unit) const = 0;
};

// From now on `kernels` work for all devices of `type`, in place of those before; null: none do.
// Call before models run on such a device: not thread-safe.
void set_device_kernels(at::DeviceType type, std::shared_ptr<const DeviceKernels> kernels);
// Null where there are none.
const DeviceKernels* device_kernels(at::DeviceType type);

}  // namespace keiko::model
