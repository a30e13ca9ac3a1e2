// x W^T + b, the product that nearly all time of a step goes into.
//
// On the CPU in float32 oneDNN computes it and the gradient of x where that is faster than the BLAS
// that ATen takes, and the gradient of W is added by the product itself into the flat buffer that
// holds it, instead of being made apart and added afterwards. Elsewhere, and on other devices, it
// is at::linear, whose gradients autograd adds into the same buffer.

#pragma once
#include <ATen/core/Tensor.h>

namespace keiko::model {

// x [..., in], weight [out, in], bias [out] or undefined -> [..., out]. Differentiable once.
at::Tensor apply_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace keiko::model
