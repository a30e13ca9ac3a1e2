#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "optim/adamw.h"

namespace keiko::optim {
namespace {

TEST(Schedule, WarmsUpThenFallsAsACosine) {
  const Schedule s{1e-6, 1e-3, 1e-5, 10, 110};
  EXPECT_DOUBLE_EQ(lr_at(s, 0), 1e-6);
  EXPECT_NEAR(lr_at(s, 5), (1e-6 + 1e-3) / 2, 1e-12);
  EXPECT_DOUBLE_EQ(lr_at(s, 10), 1e-3);
  EXPECT_NEAR(lr_at(s, 60), (1e-3 + 1e-5) / 2, 1e-12);
  EXPECT_NEAR(lr_at(s, 110), 1e-5, 1e-15);
  for (int64_t step = 11; step < 110; ++step) EXPECT_LT(lr_at(s, step), lr_at(s, step - 1));
}

TEST(Schedule, ScalesWithTheBatch) {
  OptimizerOptions o;
  o.base_lr = 1.5e-4;
  o.min_lr = 1e-5;
  o.lr_scale.linear = 256;
  o.warmup_epochs = 2;
  const Schedule s = o.schedule(2048, 1000, 50);
  EXPECT_DOUBLE_EQ(s.lr, 1.2e-3);
  EXPECT_DOUBLE_EQ(s.min_lr, 8e-5);
  EXPECT_EQ(s.warmup_steps, 100);
}

// The update written out by hand, in doubles (torch.optim.AdamW's documented formula).
TEST(AdamW, FollowsThePublishedFormula) {
  model::Parameters p(at::kDouble);
  const at::Tensor w = p.declare({"w.weight", {3, 2}, 0, true});
  const at::Tensor b = p.declare({"w.bias", {3}, 0, false, model::Init::kOnes});
  p.allocate(1);
  OptimizerOptions o;
  o.weight_decay = 0.1;
  o.betas = {0.9, 0.95};
  AdamW adam(p, o);
  at::Tensor values[] = {w.detach().clone(), b.detach().clone()};
  at::Tensor m[] = {at::zeros_like(values[0]), at::zeros_like(values[1])};
  at::Tensor v[] = {at::zeros_like(values[0]), at::zeros_like(values[1])};
  at::manual_seed(3);
  for (int64_t step = 1; step <= 20; ++step) {
    const double lr = 0.01 / double(step);
    const at::Tensor leaves[] = {w, b};
    for (int i = 0; i < 2; ++i) {
      const at::Tensor g = at::randn_like(values[i]);
      leaves[i].grad().copy_(g);
      values[i] = values[i] * (1 - lr * (i == 0 ? 0.1 : 0.0));
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const at::Tensor root = (v[i] / (1 - std::pow(0.95, double(step)))).sqrt() + 1e-8;
      values[i] = values[i] - lr * (m[i] / (1 - std::pow(0.9, double(step)))) / root;
    }
    adam.step(lr, step);
    EXPECT_LT((w - values[0]).abs().max().item<double>(), 1e-13) << "step " << step;
    EXPECT_LT((b - values[1]).abs().max().item<double>(), 1e-13) << "step " << step;
  }
}

TEST(AdamW, NormAndScaleGoOverAllBuffers) {
  model::Parameters p(at::kFloat);
  const at::Tensor a = p.declare({"a.weight", {2, 2}, 0, true});
  const at::Tensor b = p.declare({"b.bias", {4}, 1, false});
  p.allocate(1);
  a.grad().fill_(1);
  b.grad().fill_(2);
  EXPECT_NEAR(gradient_norm(p), std::sqrt(20.0), 1e-6);
  scale_gradients(p, 0.5);
  EXPECT_NEAR(gradient_norm(p), std::sqrt(5.0), 1e-6);
}

}  // namespace
}  // namespace keiko::optim
