// The recipe: everything a run is made of, gathered from the rooms' own options.

#pragma once
#include <string>
#include <vector>

#include "config/binder.h"
#include "data/clip_plan.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "dist/gradient_reducer.h"
#include "objective/objective.h"
#include "optim/adamw.h"
#include "train/checkpoint.h"
#include "train/step_guard.h"

namespace keiko::train {

struct TrainOptions {
  // Where to compute: "cpu"; "cuda", each rank on the GPU of its local rank; or "auto", a GPU where
  // there is one.
  std::string device = "auto";
  int64_t threads = 0;        // compute threads a rank; 0: the cores that decoding leaves
  bool deterministic = true;  // on CPUs: refuse kernels whose result depends on timing
  // The same on GPUs, where torch has such kernels; a warning where it has none.
  bool gpu_deterministic = false;
  int64_t timeout_s = 1800;  // longest wait for the slowest rank at one collective
  double heartbeat_s = 100;  // a rank without a sign of life for so long counts as dead
  // What ranks share out instead of each holding it whole: "none"; the "optimizer"'s moments (ZeRO
  // stage 1; the same bits); its "gradients" too (stage 2); or "parameters" as well (stage 3).
  std::string shard = "none";
  int64_t shard_group = 0;                // consecutive ranks that share one copy out; 0: all
  bool activation_checkpointing = false;  // compute blocks again instead of keeping activations
  // Record passes once and launch them whole: "never", "always" (an error where that is not
  // possible), or "auto" (the log says where it is not). Nothing that is computed changes.
  std::string cuda_graph = "never";
  int64_t overfit = 0;  // train on the first n samples alone, over and over; 0: on all

  void bind(config::Binder& b);
};

// For finding out what goes wrong; nothing here changes what is computed.
struct DebugOptions {
  bool anomaly = false;     // autograd names the operation whose gradient is NaN; slow
  int64_t norms_every = 0;  // steps between lines of gradient and activation norms; 0: none
  // Flips a bit of a weight on this rank after this step, to see the check of replicas find it;
  // -1: never. The one exception: this does change what is computed.
  int64_t flip_bit_rank = -1, flip_bit_step = -1;
  bool phases = false;  // RUN/phase-RANK says what each rank is doing (train/phase.h)

  void bind(config::Binder& b);
};

struct EvalOptions {
  int64_t every = 0;                   // steps; 0: only at the end
  std::vector<data::DataSource> data;  // empty: no evaluation
  int64_t batch_size = 64;             // clips a rank decodes and runs at once
  int64_t max_items = 0;               // the first n items only; 0: all
  data::ViewOptions views;             // clips of each item, whose predictions are averaged

  void bind(config::Binder& b);
};

struct LogOptions {
  int64_t every = 10;    // steps
  bool samples = false;  // write samples-RANK.jsonl

  void bind(config::Binder& b);
};

struct Recipe {
  int64_t seed = 0;
  std::vector<data::DataSource> data;
  data::ClipOptions clip;
  data::AugmentOptions augment;
  objective::ObjectiveChoice objective;
  std::string init_from;  // checkpoint or run folder to take first weights from; "": none
  // Which weights of init_from: "model", "ema" (averaged ones), or "auto": averaged where there
  // are.
  std::string init_weights = "auto";
  int64_t batch_size = 256;      // clips, over all ranks
  int64_t micro_batch_size = 0;  // clips a rank runs at once; 0: its whole slice
  int64_t steps = -1;            // either this
  double epochs = 0;             // or this
  optim::OptimizerOptions optimizer;
  std::string precision = "auto";
  TrainOptions train;
  dist::ReduceOptions reduce;
  GuardOptions guard;
  DebugOptions debug;
  data::LoaderOptions loader;
  CheckpointOptions checkpoint;
  EvalOptions eval;
  LogOptions log;
  std::string run;  // run folder; "": runs/RECIPE-HASH8

  void bind(config::Binder& b);
};

// Reads `path`, its `extends` and the `key=value` overrides. Throws Error(kUsage) naming line,
// value and nearest key.
Recipe load_recipe(const std::string& path, const std::vector<std::string>& overrides);

// xxh3 over the keys that define the computation.
uint64_t defining_hash(const Recipe& recipe);

// recipe.run, or runs/NAME-HASH8 with NAME from the recipe's file name.
std::string run_folder_of(const Recipe& recipe, const std::string& recipe_path);

// The objective of a recipe, with the classes and targets of `dataset`. `steps`: of the whole run;
// 0 outside of training. Throws Error(kUsage) when they do not go together.
std::unique_ptr<objective::Objective> make_objective(const Recipe& recipe,
                                                     const data::Dataset& dataset,
                                                     int64_t steps = 0);

// Throws Error(kUsage) when what `objective`, made for `dataset`, says of `eval` cannot be judged:
// other classes, other targets, or targets of another kind.
void check_eval_data(const objective::Objective& objective, const data::Dataset& dataset,
                     const data::Dataset& eval);

// The columns of `dataset` as objectives know them.
std::vector<objective::TargetColumn> target_columns(const data::Dataset& dataset);

}  // namespace keiko::train
