// AdamW (Loshchilov and Hutter 2019) on flat buffers, with gradient clipping before it.

#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
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
  std::string schedule_shape = "cosine";  // after the warm-up: cosine, constant or linear
  double weight_decay = 0.05;
  double weight_decay_end = -1;  // reached in half a cosine at the end of the run; -1: constant
  double layer_decay = 1;        // fine-tuning: each layer below the head learns this much slower
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double clip_grad = 0;  // largest global L2 norm; 0: no clipping

  void bind(config::Binder& b);
  // `epoch_steps`: steps in an epoch, for warmup_epochs.
  Schedule schedule(int64_t batch_size, int64_t steps, double epoch_steps) const;
  // Of update `step`, counted from 0.
  double weight_decay_at(int64_t step, int64_t steps) const;
};

// Global L2 norm over all gradient buffers, before any clipping. Waits for the device, and so for
// the whole backward pass.
double gradient_norm(const model::Parameters& parameters);
// Sum of squares of each slice's gradients, float64 [slices], on their device. Does not wait; who
// reads its numbers does.
at::Tensor squared_norms(const std::vector<model::OwnedSlice>& slices);

// Layer-wise learning-rate decay (Clark et al. 2020; Bao et al. 2022): buffers of block i learn
// with layer_decay^(head_block - i) of the learning rate, those from `head_block` on with all of
// it.
void decay_layers(model::Parameters& parameters, double layer_decay, int head_block);

// Fills `into` (one-dimensional, contiguous, on whatever device) with what belongs there of a state
// of AdamW::state() that has `numbers` numbers over all ranks: those from `start` on.
using ReadState = std::function<void(const std::string& name, int64_t numbers, int64_t start,
                                     const at::Tensor& into)>;

// Works on the device where the parameters are when it is made, and adds its work to that device's
// stream: only load_state() waits for the device. Not thread-safe.
class AdamW {
 public:
  // `parameters` outlive it, and stay on their device. Where `owned` (one slice a buffer) is given
  // it has moments for, and updates, those alone (ZeRO stage 1, Rajbhandari et al. 2020), else
  // every buffer whole.
  AdamW(model::Parameters& parameters, const OptimizerOptions& options,
        std::vector<model::OwnedSlice> owned = {});
  // One update with the gradients in the buffers. `step` counts from 1. Each buffer learns with
  // lr times its lr_scale, and decays with its own weight_decay or this one.
  void step(double lr, double weight_decay, int64_t step);
  // The same with both numbers on the device, so that a graph of its work (CUDA graphs), captured
  // once, can be run again after `lr` and `step` were changed in place: float32 scalars on the
  // parameters' device. What decays by how much is a part of the graph.
  void step(const at::Tensor& lr, double weight_decay, const at::Tensor& step);

  // Multiplies the gradients that step() will use.
  void scale_gradients(double factor);
  // What it updates, one slice a buffer.
  const std::vector<model::OwnedSlice>& owned() const { return owned_; }

  // First and second moments: "exp_avg.block00.decay". As long as the slice of that buffer; live,
  // on the parameters' device.
  std::vector<model::NamedTensor> state() const;
  // Has `read` fill its slices, one after the other. Throws what that throws.
  void load_state(const ReadState& read);

 private:
  // Buffers that learn and decay alike: _fused_adamw_ takes them at once.
  struct Group {
    std::vector<at::Tensor> values, grads, exp_avgs, exp_avg_sqs, steps;
  };
  // By (lr_scale, weight decay).
  std::map<std::pair<double, double>, Group> groups(double weight_decay,
                                                    const at::Tensor& step) const;

  model::Parameters& parameters_;
  OptimizerOptions options_;
  std::vector<model::OwnedSlice> owned_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
};

}  // namespace keiko::optim
