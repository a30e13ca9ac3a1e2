#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/flat_memory.h"

namespace keiko::optim {

void LrScaleOptions::bind(config::Binder& b) {
  b.key("linear", linear, "lr times batch_size / this; 0 is off").at_least(0);
}

void OptimizerOptions::bind(config::Binder& b) {
  b.choice("name", name, {"adamw"}, "the optimiser");
  b.key("base_lr", base_lr, "peak learning rate before lr_scale").range(0, 1000);
  b.group("lr_scale", lr_scale);
  b.key("warmup_lr", warmup_lr, "at the first step, before lr_scale").range(0, 1000);
  b.key("min_lr", min_lr, "at the end of the run, before lr_scale").range(0, 1000);
  b.key("warmup_steps", warmup_steps, "linear warm-up").at_least(0);
  b.key("warmup_epochs", warmup_epochs, "the same in epochs; only one of the two").at_least(0);
  if (warmup_steps > 0 && warmup_epochs > 0)
    b.refuse("warmup_epochs", "and warmup_steps cannot both be given");
  b.choice("schedule", schedule_shape, {"cosine", "constant", "linear"},
           "of the learning rate after the warm-up");
  b.key("weight_decay", weight_decay, "decoupled; none for norms, biases, tokens").range(0, 100);
  b.key("weight_decay_end", weight_decay_end,
        "reached in half a cosine at the end of the run; -1 is constant")
      .range(-1, 100);
  b.key("layer_decay", layer_decay,
        "fine-tuning: each layer learns this much slower than the one above; 1 is off")
      .range(0.01, 1);
  b.key("betas", betas, "decay of the two moments").range(0, 1);
  if (betas.size() != 2) b.refuse("betas", "must be two numbers");
  b.key("eps", eps, "added to the root of the second moment").range(0, 1);
  b.key("clip_grad", clip_grad, "largest gradient norm; 0 is off").at_least(0);
}

Schedule OptimizerOptions::schedule(int64_t batch_size, int64_t steps, double epoch_steps) const {
  const double scale = lr_scale.linear > 0 ? double(batch_size) / double(lr_scale.linear) : 1;
  const int64_t warmup =
      warmup_epochs > 0 ? int64_t(std::llround(warmup_epochs * epoch_steps)) : warmup_steps;
  const Shape shape = schedule_shape == "constant" ? Shape::kConstant
                      : schedule_shape == "linear" ? Shape::kLinear
                                                   : Shape::kCosine;
  return {warmup_lr * scale, base_lr * scale, min_lr * scale, warmup, steps, shape};
}

double OptimizerOptions::weight_decay_at(int64_t step, int64_t steps) const {
  return weight_decay_end < 0 ? weight_decay
                              : cosine_between(weight_decay, weight_decay_end, step, steps);
}

void decay_layers(model::Parameters& parameters, double layer_decay, int head_block) {
  for (auto& buffer : parameters.buffers())
    buffer.lr_scale *= std::pow(layer_decay, std::max(0, head_block - buffer.block));
}

double gradient_norm(const model::Parameters& parameters) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> norms;
  for (const auto& buffer : parameters.buffers()) norms.push_back(buffer.grad.norm());
  return at::stack(norms).norm().item<double>();
}

at::Tensor squared_norms(const std::vector<model::OwnedSlice>& slices) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> squares;
  for (const model::OwnedSlice& slice : slices)
    squares.push_back(slice.grad.norm().to(at::kDouble).square());
  return at::stack(squares);
}

AdamW::AdamW(model::Parameters& parameters, const OptimizerOptions& options,
             std::vector<model::OwnedSlice> owned)
    : parameters_(parameters),
      options_(options),
      owned_(owned.empty() ? parameters.whole_slices() : std::move(owned)) {
  for (const model::OwnedSlice& slice : owned_) {
    exp_avg_.push_back(model::flat_zeros_like(slice.value));
    exp_avg_sq_.push_back(model::flat_zeros_like(slice.value));
  }
}

void AdamW::scale_gradients(double factor) {
  if (factor == 1) return;
  const c10::NoGradGuard no_grad;
  for (model::OwnedSlice& slice : owned_) slice.grad.mul_(factor);
}

std::map<std::pair<double, double>, AdamW::Group> AdamW::groups(double weight_decay,
                                                                const at::Tensor& step) const {
  std::map<std::pair<double, double>, Group> groups;
  for (size_t i = 0; i < parameters_.buffers().size(); ++i) {
    const auto& buffer = parameters_.buffers()[i];
    if (exp_avg_[i].numel() == 0) continue;  // all of it is other ranks'
    Group& group =
        groups[{buffer.lr_scale, buffer.decays ? buffer.weight_decay.value_or(weight_decay) : 0}];
    group.values.push_back(owned_[i].value);
    group.grads.push_back(owned_[i].grad);
    group.exp_avgs.push_back(exp_avg_[i]);
    group.exp_avg_sqs.push_back(exp_avg_sq_[i]);
    group.steps.push_back(step);
  }
  return groups;
}

void AdamW::step(double lr, double weight_decay, int64_t step) {
  const c10::NoGradGuard no_grad;
  // Filled there, where the kernel reads it: a copy from the host would make it wait.
  const at::Tensor count =
      at::full({}, double(step), at::TensorOptions(at::kFloat).device(parameters_.device()));
  for (auto& [rates, g] : groups(weight_decay, count))
    at::_fused_adamw_(g.values, g.grads, g.exp_avgs, g.exp_avg_sqs, {}, g.steps, lr * rates.first,
                      options_.betas[0], options_.betas[1], rates.second, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
}

void AdamW::step(const at::Tensor& lr, double weight_decay, const at::Tensor& step) {
  const c10::NoGradGuard no_grad;
  for (auto& [rates, g] : groups(weight_decay, step))
    at::_fused_adamw_(g.values, g.grads, g.exp_avgs, g.exp_avg_sqs, {}, g.steps, lr * rates.first,
                      options_.betas[0], options_.betas[1], rates.second, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
}

std::vector<model::NamedTensor> AdamW::state() const {
  std::vector<model::NamedTensor> tensors;
  for (size_t i = 0; i < exp_avg_.size(); ++i) {
    tensors.emplace_back("exp_avg." + parameters_.buffers()[i].name, exp_avg_[i]);
    tensors.emplace_back("exp_avg_sq." + parameters_.buffers()[i].name, exp_avg_sq_[i]);
  }
  return tensors;
}

void AdamW::load_state(const ReadState& read) {
  const c10::NoGradGuard no_grad;
  const auto live = state();
  for (size_t i = 0; i < live.size(); ++i)
    read(live[i].first, parameters_.buffers()[i / 2].value.numel(), owned_[i / 2].start,
         live[i].second);
}

}  // namespace keiko::optim
