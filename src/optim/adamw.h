// AdamW (Loshchilov and Hutter 2019) on flat buffers, with gradient clipping before it.

#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "config/binder.h"
#include "model/parameters.h"
#include "optim/schedule.h"

namespace keiko::optim {

struct LrScaleOptions {
  int64_t linear = 0;  // learning rates are multiplied by batch_size / linear; 0: not

  void bind(config::Binder& b);
};

struct OptimizerOptions {
  std::string name = "adamw";
  double base_lr = 1e-3;
  LrScaleOptions lr_scale;
  double warmup_lr = 0, min_lr = 0;  // scaled as base_lr is
  int64_t warmup_steps = 0;
  double warmup_epochs = 0;
  double weight_decay = 0.05;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double clip_grad = 0;  // largest global L2 norm; 0: no clipping

  void bind(config::Binder& b);
  // `epoch_steps`: steps in an epoch, for warmup_epochs.
  Schedule schedule(int64_t batch_size, int64_t steps, double epoch_steps) const;
};

// Global L2 norm over all gradient buffers, before any clipping.
double gradient_norm(const model::Parameters& parameters);
// Multiplies all gradients by `factor`.
void scale_gradients(model::Parameters& parameters, double factor);

// Not thread-safe.
class AdamW {
 public:
  // Keeps views of the parameters' buffers; `parameters` must outlive it.
  AdamW(model::Parameters& parameters, const OptimizerOptions& options);
  // One update with the gradients in the buffers. `step` counts from 1.
  void step(double lr, int64_t step);

  // First and second moments, as long as the flat buffers: "exp_avg.block00.decay".
  std::vector<model::NamedTensor> state() const;

 private:
  model::Parameters& parameters_;
  OptimizerOptions options_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
};

}  // namespace keiko::optim
