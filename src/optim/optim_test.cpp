#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include <fmt/format.h>

#include "model/meta_device_for_tests.h"
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
    adam.step(lr, 0.1, step);
    EXPECT_LT((w - values[0]).abs().max().item<double>(), 1e-13) << "step " << step;
    EXPECT_LT((b - values[1]).abs().max().item<double>(), 1e-13) << "step " << step;
  }
}

// Layer-wise decay and a head's own weight decay: each buffer moves as a buffer of its own
// optimiser with its own rates would.
TEST(AdamW, EachBufferHasItsOwnRates) {
  const auto fill = [](model::Parameters& p) {
    for (int block = 0; block < 4; ++block)
      p.declare({fmt::format("w{}", block), {5, 3}, block, true});
    p.allocate(3);
    for (size_t i = 0; i < p.buffers().size(); ++i)
      p.buffers()[i].grad.copy_(at::arange(15, at::kDouble).sub_(double(i) * 4));
  };
  OptimizerOptions o;
  model::Parameters whole(at::kDouble);
  fill(whole);
  decay_layers(whole, 0.5, 2);
  whole.buffers()[3].weight_decay = 0.3;
  AdamW adam(whole, o);
  adam.step(0.1, 0.05, 1);
  for (size_t i = 0; i < 4; ++i) {
    model::Parameters alone(at::kDouble);
    fill(alone);
    AdamW one(alone, o);
    one.step(0.1 * std::vector<double>{0.25, 0.5, 1, 1}[i], i == 3 ? 0.3 : 0.05, 1);
    EXPECT_LT((alone.buffers()[i].value - whole.buffers()[i].value).abs().max().item<double>(),
              1e-15)
        << i;
  }
}

void declare_some(model::Parameters& p) {
  for (int block = 0; block < 3; ++block) {
    p.declare({fmt::format("w{}", block), {5, 3}, block, true});
    p.declare({fmt::format("b{}", block), {7}, block, false});
  }
}

// Rate and step as tensors, as a captured graph has them: the same updates.
TEST(AdamW, TakesRateAndStepFromTensorsToo) {
  model::Parameters by_number(at::kFloat), by_tensor(at::kFloat);
  for (model::Parameters* p : {&by_number, &by_tensor}) {
    declare_some(*p);
    p->allocate(3);
    decay_layers(*p, 0.5, 2);
    for (auto& buffer : p->buffers())
      buffer.grad.copy_(at::arange(buffer.grad.numel(), at::kFloat).sub_(6));
  }
  AdamW numbers(by_number, {}), tensors(by_tensor, {});
  at::Tensor lr = at::zeros({}), count = at::zeros({});
  for (int64_t step = 1; step <= 5; ++step) {
    numbers.step(0.25 / double(step), 0.1, step);
    lr.fill_(0.25 / double(step));
    count.add_(1);
    tensors.step(lr, 0.1, count);
  }
  EXPECT_EQ(count.item<float>(), 5);  // the caller's
  for (size_t i = 0; i < by_number.buffers().size(); ++i)
    EXPECT_LT(
        (by_number.buffers()[i].value - by_tensor.buffers()[i].value).abs().max().item<double>(),
        1e-6)
        << by_number.buffers()[i].name;
}

TEST(AdamW, OnADeviceNobodyWaitsForIt) {
  model::Parameters here(at::kFloat), there(at::kFloat);
  for (model::Parameters* p : {&here, &there}) {
    declare_some(*p);
    p->allocate(3);
  }
  there.move_to(at::kMeta);
  AdamW adamw(there, {});
  for (const auto& [name, tensor] : adamw.state()) EXPECT_TRUE(tensor.is_meta()) << name;
  {
    const model::MetaWatch watch;
    adamw.scale_gradients(0.5);
    adamw.step(1e-3, 0.1, 7);
    const auto scalar = at::TensorOptions(at::kFloat).device(at::kMeta);
    adamw.step(at::empty({}, scalar), 0.1, at::empty({}, scalar));
    EXPECT_TRUE(squared_norms(adamw.owned()).is_meta());
    EXPECT_GT(watch.operations(), 0);
    EXPECT_TRUE(watch.faults().empty()) << watch.faults()[0];
    EXPECT_EQ(watch.uploads(), 0);
    EXPECT_TRUE(watch.downloads().empty());
  }
  std::vector<std::string> asked;
  adamw.load_state(
      [&](const std::string& name, int64_t numbers, int64_t start, const at::Tensor& into) {
        EXPECT_EQ(numbers, into.numel()) << name;
        EXPECT_EQ(start, 0) << name;
        EXPECT_TRUE(into.is_meta()) << name;
        asked.push_back(name);
      });
  std::vector<std::string> wanted;
  for (const auto& [name, tensor] : adamw.state()) wanted.push_back(name);
  EXPECT_EQ(asked, wanted);
}

TEST(Schedule, ShapesEndWhereTheySay) {
  Schedule s{0, 1, 0.25, 10, 110};
  for (const Shape shape : {Shape::kCosine, Shape::kConstant, Shape::kLinear}) {
    s.shape = shape;
    EXPECT_DOUBLE_EQ(lr_at(s, 5), 0.5);
    EXPECT_DOUBLE_EQ(lr_at(s, 10), 1);
    EXPECT_NEAR(lr_at(s, 60), shape == Shape::kConstant ? 1 : 0.625, 1e-12);
    EXPECT_NEAR(lr_at(s, 110), shape == Shape::kConstant ? 1 : 0.25, 1e-12);
  }
  OptimizerOptions o;
  o.weight_decay = 0.04;
  EXPECT_DOUBLE_EQ(o.weight_decay_at(7, 10), 0.04);
  o.weight_decay_end = 0.4;
  EXPECT_DOUBLE_EQ(o.weight_decay_at(0, 10), 0.04);
  EXPECT_NEAR(o.weight_decay_at(5, 10), 0.22, 1e-12);
  EXPECT_NEAR(o.weight_decay_at(10, 10), 0.4, 1e-12);
}

TEST(AdamW, NormAndScaleGoOverAllBuffers) {
  model::Parameters p(at::kFloat);
  const at::Tensor a = p.declare({"a.weight", {2, 2}, 0, true});
  const at::Tensor b = p.declare({"b.bias", {4}, 1, false});
  p.allocate(1);
  a.grad().fill_(1);
  b.grad().fill_(2);
  EXPECT_NEAR(gradient_norm(p), std::sqrt(20.0), 1e-6);
  EXPECT_TRUE(at::allclose(squared_norms(p.whole_slices()), at::tensor({4.0, 16.0}, at::kDouble)));
  AdamW adamw(p, {});
  adamw.scale_gradients(0.5);
  EXPECT_NEAR(gradient_norm(p), std::sqrt(5.0), 1e-6);
}

}  // namespace
}  // namespace keiko::optim
