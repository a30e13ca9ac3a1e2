// What is learned: an objective owns its modules and turns a micro-batch into a loss.
//
// The training loop knows nothing else about models. Adding an objective is a header, a source, a
// test and a recipe; register_objective makes its name known to recipes, in this tree or out of it.

#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/binder.h"
#include "model/block_runner.h"
#include "model/parameters.h"

namespace keiko::objective {

// Some clips of a batch, as the model gets them: tensors are where the objective's parameters are.
struct MicroBatch {
  at::Tensor video;                // uint8 [b, 3, T, H, W]
  at::Tensor label;                // int64 [b]; -1: none
  at::Tensor target;               // float [b, columns], NaN: not known; undefined: data without
  std::vector<int64_t> positions;  // of the sample stream (in evaluation: item indices)
  int64_t views = 1;               // consecutive clips that are views of one item
  // The training step and all positions [batch_first, batch_last) of its batch, on whatever rank
  // they are: what a batch shares is drawn from these. In evaluation every clip is a batch of its
  // own.
  int64_t step = -1;
  int64_t batch_first = 0, batch_last = 0;

  bool is_training() const { return step >= 0; }
};

// What the host decides about a micro-batch before its device computes it.
struct Draws {
  // Masks, shares and the like, all of one dtype; undefined ones stand for nothing. On the CPU
  // where they are drawn, beside the parameters where loss() gets them.
  std::vector<at::Tensor> tensors;
  // What becomes a part of the computation: weights of losses, whether something is done at all.
  // Where they or the tensors' shapes differ, other operations run.
  std::vector<double> numbers;
};

// Weights as a checkpoint has them, under published names.
struct Weights {
  std::vector<model::NamedTensor> model;
  std::vector<model::NamedTensor> ema;  // exponential moving averages of some of them; often empty
};

// Sums over the clips of a micro-batch; the loop divides by the global count of clips. On the
// objective's device: who reads the numbers waits for it, nobody else does.
struct LossSums {
  at::Tensor loss;     // scalar, differentiable
  at::Tensor metrics;  // [metric_names().size()], detached
};

// A part of a model, by how many numbers its weights are.
struct PartSize {
  std::string name;  // "encoder", "predictor", "head"
  int64_t count = 0;
  bool is_trained = true;  // else it is held without gradients: frozen, or a moving average
};

// Made on the CPU, and moved as a whole. Not thread-safe.
class Objective {
 public:
  virtual ~Objective() = default;

  // The parameters that are trained.
  virtual model::Parameters& parameters() = 0;
  // Moves all tensors that it holds to `device`: weights, moving averages, frozen encoders,
  // statistics. (Tables that a model declared go with its parameters.) Call when
  // Parameters::move_to may be called; tensors that weights(), ema_weights() and statistics() gave
  // before are stale.
  virtual void move_to(at::Device device) { parameters().move_to(device); }
  // Everything in a micro-batch's loss that follows from its positions and its step, all randomness
  // above all: drawn on the CPU whatever the device is, the same numbers everywhere.
  virtual Draws draw(const MicroBatch& batch) const {
    (void)batch;
    return {};
  }
  // The sum over clips of each clip's loss, with its graph. `draws` is what draw() gave for
  // `batch`, on the device; of `batch` it looks at tensors alone, so that the work can be recorded
  // and run again with other values in the same memory (gpu/recorder.h). Every block of
  // parameters() runs through `runner`, which may be all that brings its weights along. Neither
  // loss() nor its backward pass waits for the device: no value of a tensor is read, no shape
  // depends on one.
  virtual LossSums loss(const MicroBatch& batch, const Draws& draws,
                        const model::BlockRunner& runner) = 0;
  // Draws, sends what was drawn in one copy, and gives the loss.
  LossSums loss(const MicroBatch& batch, const model::BlockRunner& runner);
  // Names of LossSums::metrics, logged beside the loss.
  virtual std::vector<std::string> metric_names() const { return {}; }

  // A warning about a step's metrics (means over the batch, in the order of metric_names()), or "".
  virtual std::string alarm(const std::vector<double>& metrics) const {
    (void)metrics;
    return "";
  }

  // One row of numbers per clip, float64 [b, evaluation_columns().size()], without a graph, on the
  // CPU. Waits for the device, once.
  virtual std::vector<std::string> evaluation_columns() const = 0;
  virtual at::Tensor evaluate(const MicroBatch& batch) = 0;
  // What the encoder makes of each item, [b / views, D], without a graph: the mean token, averaged
  // over the item's views. On the CPU. Undefined: this objective has no encoder of whole clips.
  virtual at::Tensor features(const MicroBatch& batch) {
    (void)batch;
    return {};
  }
  // Figures from the rows of all clips; always has "loss".
  virtual nlohmann::ordered_json summarize(const at::Tensor& rows) const = 0;

  // True when every clip needs a label.
  virtual bool needs_label() const { return false; }
  // What the columns of MicroBatch::target must be: anything or none, any numbers, or shares in
  // [0, 1].
  enum class TargetNeed { kNone, kNumbers, kShares };
  virtual TargetNeed target_need() const { return TargetNeed::kNone; }
  // The block of the flat buffers that layer-wise learning-rate decay counts from (the head's);
  // 0: this objective has none.
  virtual int head_block() const { return 0; }
  // Called on every rank after the weights were updated; `steps` counts the run's steps, this one
  // and skipped ones included. Not called for a step that the guard skips.
  virtual void after_step(int64_t steps) { (void)steps; }
  // Moving averages of weights, live, under the names of weights() where they average them.
  virtual std::vector<model::NamedTensor> ema_weights() { return {}; }
  // Restores what ema_weights() gave. Throws Error(kData) naming a tensor that is missing.
  virtual void load_ema(const std::vector<model::NamedTensor>& tensors) { (void)tensors; }
  // All weights under published names, live on the objective's device, those that are not trained
  // too.
  virtual std::vector<model::NamedTensor> weights() { return parameters().published(); }
  // Takes some or all of weights(); what is not given stays as it is, and is `missing`.
  virtual model::Parameters::Unmatched load_weights(
      const std::vector<model::NamedTensor>& tensors) {
    return parameters().load(tensors);
  }
  // Starts from another run's weights: takes what fits by name, and says what was left as it was.
  // Throws Error(kData) when a part that must come from there is missing, naming it.
  virtual std::string start_from(const Weights& weights) = 0;
  // A fresh run shows its first calibration_clips() samples to calibrate() before step 0, in
  // batches, the same ones to every rank: for statistics of the data that the model needs. Resumed
  // runs do not.
  virtual int64_t calibration_clips() const { return 0; }
  virtual void calibrate(const MicroBatch& batch) { (void)batch; }
  // What calibration found, as live tensors: part of weights(), equal on all ranks.
  virtual std::vector<model::NamedTensor> statistics() { return {}; }
  // The config.json beside model.safetensors.
  virtual nlohmann::ordered_json config() const = 0;
  // What the objective adds to a batch, such as "mask", for those who audit it. On the CPU.
  virtual std::vector<model::NamedTensor> fields(const MicroBatch& batch) {
    (void)batch;
    return {};
  }
  // Rows of clips to look at, uint8 [b, rows, 3, T, H, W], on the CPU: the input, what is hidden,
  // what came back.
  virtual at::Tensor picture(const MicroBatch& batch) { return batch.video.unsqueeze(1).cpu(); }
  // Floating-point operations of one clip, forward and backward, without recomputation.
  virtual double flops_per_clip() const = 0;
  // Sizes of all weights, also of an objective that was made with ObjectiveContext::dry_run.
  virtual std::vector<PartSize> part_sizes() { return {{"model", parameters().count(), true}}; }
  // Numbers that the forward pass of one clip keeps for the backward pass, by an estimate that
  // leaves out what is small beside tokens; 0: unknown.
  virtual double activations_per_clip() const { return 0; }
};

// A column of MicroBatch::target, and what its known values in the data are.
struct TargetColumn {
  std::string name;
  double mean = 0, std = 1;  // std > 0
};

// What an objective may know when it is made.
struct ObjectiveContext {
  int64_t num_frames = 0, size = 0;
  uint64_t seed = 0;
  std::vector<std::string> class_names;
  at::ScalarType dtype = at::kFloat;
  int64_t steps = 0;    // of the whole run; 0: unknown (not training)
  int64_t repeats = 1;  // views of an item in consecutive positions (augment.repeats)
  // Parameters are declared and not allocated: only part_sizes(), flops_per_clip(),
  // activations_per_clip(), config() and the plain questions may be asked.
  bool dry_run = false;
  std::vector<TargetColumn> targets;  // empty: the data has none
};

// The recipe's `objective` keys of one kind of objective.
class ObjectiveOptions {
 public:
  virtual ~ObjectiveOptions() = default;
  virtual void bind(config::Binder& b) = 0;
  // Consecutive samples whose losses depend on each other (mixup partners): ranks and micro-batches
  // get whole groups. With repeated augmentation a sample is all views of an item.
  virtual int64_t group_size() const { return 1; }
  // Throws Error(kUsage) when the options do not fit the clips or the data.
  virtual std::unique_ptr<Objective> make(const ObjectiveContext& context) const = 0;
};

using MakeOptions = std::function<std::shared_ptr<ObjectiveOptions>()>;

// Makes `name` usable as objective.name. Call before recipes are read.
void register_objective(const std::string& name, MakeOptions make);

// The `objective` group of a recipe: its name chooses which keys there are.
struct ObjectiveChoice {
  std::string name = "videomae";
  std::shared_ptr<ObjectiveOptions> options;

  void bind(config::Binder& b);
};

// Tokens [b * views, N, D] -> the mean token of each item, [b, D].
at::Tensor mean_over_views(const at::Tensor& tokens, int64_t views);

// Copies the tensors of these names into the objective's live `statistics`, and takes them from
// `unmatched.unused`; what is not there, or of another size, goes to `unmatched.missing`.
void restore_statistics(const std::vector<model::NamedTensor>& statistics,
                        const std::vector<model::NamedTensor>& tensors,
                        model::Parameters::Unmatched& unmatched);

// Throws Error(kData) when `unused` tensors of a checkpoint hold learned positions: a model with
// another position embedding would load, and compute something else.
void refuse_lost_positions(const std::vector<std::string>& unused);

// 95% Wilson score interval of `hits` out of `n` (Wilson 1927).
struct Interval {
  double low, high;
};
Interval wilson_interval(int64_t hits, int64_t n);

}  // namespace keiko::objective
