#include "model/upload.h"

#include <ATen/ATen.h>

namespace keiko::model {

at::Tensor upload(const at::Tensor& tensor, at::Device device) {
  if (device.is_cpu()) return tensor;
  // From pageable memory the driver would copy while the host waits.
  const at::Tensor source = device.is_cuda() ? tensor.pin_memory() : tensor;
  return source.to(device, source.scalar_type(), /*non_blocking=*/true);
}

void upload_into(const at::Tensor& there, const at::Tensor& tensor) {
  const bool leaves_host = there.is_cuda() && tensor.is_cpu();
  there.copy_(leaves_host ? tensor.pin_memory() : tensor, /*non_blocking=*/true);
}

std::vector<at::Tensor> upload_all(const std::vector<at::Tensor>& tensors, at::Device device) {
  if (device.is_cpu()) return tensors;
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors)
    if (tensor.defined()) flat.push_back(tensor.flatten());
  if (flat.empty()) return tensors;
  const at::Tensor all = upload(at::cat(flat), device);
  std::vector<at::Tensor> there;
  int64_t start = 0;
  for (const at::Tensor& tensor : tensors) {
    there.emplace_back();
    if (!tensor.defined()) continue;
    there.back() = all.narrow(0, start, tensor.numel()).view(tensor.sizes());
    start += tensor.numel();
  }
  return there;
}

}  // namespace keiko::model
