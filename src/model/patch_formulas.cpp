#include "model/patch_formulas.h"

#include <ATen/ATen.h>

#include "model/videomae.h"

namespace keiko::model::formulas {
namespace {

// As standardise() in patches.cpp: sums of whole numbers are exact in any order, and so is the
// difference to a whole number near the mean. `levels`: uint8 [B, M, P], channel first.
at::Tensor standardised(const at::Tensor& levels, const TokenGrid& grid, at::ScalarType dtype) {
  const int64_t n = grid.patch_values() / 3;
  const at::Tensor x = levels.view({levels.size(0), levels.size(1), 3, n});
  const at::Tensor sum = x.sum(at::IntArrayRef{3}, true, at::kLong);
  const at::Tensor squares = x.to(at::kInt).square().sum(at::IntArrayRef{3}, true, at::kLong);
  const at::Tensor mean = sum.to(at::kDouble) / double(n);
  const at::Tensor variance =
      (squares * n - sum.square()).to(at::kDouble) / (double(n) * double(n - 1));
  const at::Tensor near = mean.round();
  const at::Tensor rest = (mean - near).to(dtype);
  const at::Tensor factor = (variance.sqrt() + 255e-6).reciprocal().to(dtype);
  return ((x.to(dtype) - near.to(dtype)).sub_(rest)).mul_(factor).view(levels.sizes());
}

}  // namespace

at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        at::ScalarType dtype) {
  return normalise_patches(gather_tokens(patchify(video, grid), ids), grid, dtype);
}

at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        TargetUnit unit, at::ScalarType dtype) {
  const at::Tensor levels = gather_tokens(patchify(video, grid), ids);
  const at::Tensor values = unit == TargetUnit::kPatch      ? standardised(levels, grid, dtype)
                            : unit == TargetUnit::kImageNet ? normalise_patches(levels, grid, dtype)
                                                            : levels.to(dtype).div_(255);
  return videomae_target(values, grid, false);  // the order alone
}

at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                         const at::Tensor& ids, const TokenGrid& grid, TargetUnit unit) {
  return (predicted - formulas::take_targets(video, ids, grid, unit, predicted.scalar_type()))
      .square()
      .mean(2);
}

}  // namespace keiko::model::formulas
