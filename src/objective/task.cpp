#include "objective/task.h"

#include <ATen/ATen.h>

namespace keiko::objective {

at::Tensor mean_over_known(const at::Tensor& values, const at::Tensor& is_known) {
  const at::Tensor weight = is_known.to(values.scalar_type());
  return (values * weight).sum(1) / weight.sum(1).clamp_min(1);
}

double mean_loss(const at::Tensor& loss, const at::Tensor& is_known) {
  const at::Tensor has_any = is_known.any(1).to(loss.scalar_type());
  return ((loss * has_any).sum() / has_any.sum().clamp_min(1)).item<double>();
}

}  // namespace keiko::objective
