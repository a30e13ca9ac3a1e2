#include "model/linear.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

namespace keiko::model {
namespace {

at::Tensor noise(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble).to(dtype);
}

double error_of(const at::Tensor& seen, const at::Tensor& truth) {
  return (seen.to(at::kDouble) - truth).abs().max().item<double>() /
         truth.abs().max().item<double>();
}

TEST(Linear, AndItsGradientsAreThoseOfTheFormulaInDouble) {
  for (at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (bool has_bias : {true, false})
      for (bool has_buffers : {true, false}) {
        const double tolerance = dtype == at::kFloat ? 2e-6 : 1e-14;
        at::Tensor x = noise({3, 7, 40}, 1, dtype).requires_grad_();
        at::Tensor weight = noise({24, 40}, 2, dtype).requires_grad_();
        at::Tensor bias = has_bias ? noise({24}, 3, dtype).requires_grad_() : at::Tensor();
        // As Parameters lays them out: what is there is added to.
        if (has_buffers) {
          weight.mutable_grad() = at::ones_like(weight);
          if (has_bias) bias.mutable_grad() = at::ones_like(bias);
        }
        const at::Tensor buffer = weight.grad();
        const at::Tensor upstream = noise({3, 7, 24}, 4, dtype);
        const at::Tensor y = apply_linear(x, weight, bias);
        y.backward(upstream);
        const at::Tensor wide_x = x.detach().to(at::kDouble),
                         wide_w = weight.detach().to(at::kDouble);
        const at::Tensor wide_g = upstream.to(at::kDouble);
        at::Tensor truth = at::matmul(wide_x, wide_w.t());
        if (has_bias) truth = truth + bias.detach().to(at::kDouble);
        EXPECT_LT(error_of(y, truth), tolerance);
        EXPECT_LT(error_of(x.grad(), at::matmul(wide_g, wide_w)), tolerance);
        const double before = has_buffers ? 1 : 0;
        EXPECT_LT(error_of(weight.grad(),
                           at::matmul(wide_g.view({21, 24}).t(), wide_x.view({21, 40})) + before),
                  tolerance);
        if (has_bias) {
          EXPECT_LT(error_of(bias.grad(), wide_g.view({21, 24}).sum(0) + before), tolerance);
        }
        EXPECT_EQ(weight.grad().is_same(buffer), has_buffers);
      }
}

TEST(Linear, FrozenWeightsAndConstantInputsGetNoGradient) {
  at::Tensor x = noise({5, 8}, 1, at::kFloat), weight = noise({6, 8}, 2, at::kFloat);
  at::Tensor learned = weight.clone().requires_grad_();
  apply_linear(x, learned, {}).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(learned.grad().defined());
  EXPECT_FALSE(apply_linear(x, weight, {}).requires_grad());
  at::Tensor moved = x.clone().requires_grad_();
  apply_linear(moved, weight, {}).sum().backward();
  EXPECT_TRUE(moved.grad().defined() && !weight.grad().defined());
}

// A view such as the flattened weight of a patch embedding is no leaf: its gradient goes back
// through autograd.
TEST(Linear, AWeightThatIsAViewGetsItsGradientToo) {
  at::Tensor kernel = noise({6, 2, 4}, 3, at::kFloat).requires_grad_();
  const at::Tensor x = noise({5, 8}, 1, at::kFloat);
  apply_linear(x, kernel.flatten(1), {}).sum().backward();
  EXPECT_LT(error_of(kernel.grad().flatten(1), x.to(at::kDouble).sum(0).expand({6, 8})), 1e-6);
}

}  // namespace
}  // namespace keiko::model
