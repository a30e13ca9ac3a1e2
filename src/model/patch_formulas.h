// What patches.h makes, written as tensor operations: the way on devices without kernels for it.
//
// The same numbers as the kernels of the CPU to the bit, errors up to the order of additions.
// Nothing here depends on the values of tensors, and nothing waits for them.

#pragma once
#include "model/patches.h"

namespace keiko::model::formulas {

// Arguments and results as in patches.h, on any one device.
at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        at::ScalarType dtype);
at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        TargetUnit unit, at::ScalarType dtype);
// Differentiable by `predicted`.
at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                         const at::Tensor& ids, const TokenGrid& grid, TargetUnit unit);

}  // namespace keiko::model::formulas
