// Small tensors that the host made (masks, shares, permutations), on their way to the device that
// computes with them.
//
// What is random is drawn on the CPU, whatever device trains. It reaches the device without the
// host waiting for it: through pinned memory, in copies that are part of the device's stream of
// work.

#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vector>

namespace keiko::model {

// `tensor` (on the CPU) on `device`: itself where that is the CPU. The host does not wait, and may
// change or drop `tensor` at once.
at::Tensor upload(const at::Tensor& tensor, at::Device device);

// The same of several tensors of one dtype, in one copy. An undefined one stays undefined. What
// comes back is contiguous.
std::vector<at::Tensor> upload_all(const std::vector<at::Tensor>& tensors, at::Device device);

// Copies `tensor` (on the CPU, or on the same device) into `there`, of the same shape and dtype, on
// whatever device. The host does not wait, and may change or drop `tensor` at once, unless it lies
// in pinned memory: that must stay until the device is done with it.
void upload_into(const at::Tensor& there, const at::Tensor& tensor);

}  // namespace keiko::model
