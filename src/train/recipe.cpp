#include "train/recipe.h"

#include <fmt/ranges.h>

#include <filesystem>

#include "base/error.h"
#include "base/hash.h"

namespace keiko::train {
namespace {

// Throws Error(kUsage) naming the place of a target that is no share where shares are needed.
void check_shares(const objective::Objective& objective, const data::Dataset& dataset) {
  if (objective.target_need() != objective::Objective::TargetNeed::kShares) return;
  for (const data::TargetColumn& column : dataset.target_columns())
    for (const auto& [value, place] :
         {std::pair(column.low, column.low_place), std::pair(column.high, column.high_place)})
      if (value < 0 || value > 1)
        fail(ErrorKind::kUsage,
             "{}: {} = {} is not from 0 to 1, as classes are; objective.target: regression learns "
             "any numbers",
             place, column.name, value);
}

}  // namespace

void TrainOptions::bind(config::Binder& b) {
  b.choice("device", device, {"auto", "cpu", "cuda"},
           "where to compute; cuda: each rank on the GPU of its local rank")
      .free();
  b.key("threads", threads, "compute threads a rank; 0 is what decoding leaves")
      .range(0, 4096)
      .free();
  b.key("deterministic", deterministic, "only kernels whose result does not depend on timing");
  b.key("gpu_deterministic", gpu_deterministic,
        "the same on GPUs, as far as torch has such kernels; slower");
  b.key("timeout_s", timeout_s, "longest wait for the slowest rank at one collective")
      .range(10, 86400)
      .free();
  b.key("heartbeat_s", heartbeat_s,
        "a rank without a sign of life for so long counts as dead, and ends the job")
      .range(1, 86400)
      .free();
  b.choice("shard", shard, {"none", "optimizer", "gradients", "parameters"},
           "what ranks share out instead of each holding it whole, each with what comes before it")
      .free();
  b.key("shard_group", shard_group,
        "consecutive ranks that share one copy out, such as those of a node; 0 is all ranks")
      .at_least(0)
      .free();
  b.key("activation_checkpointing", activation_checkpointing,
        "compute blocks again in the backward pass instead of keeping their activations")
      .free();
  b.choice("cuda_graph", cuda_graph, {"never", "auto", "always"},
           "on a GPU, record forward and backward once, and launch them as one from then on")
      .free();
  b.key("overfit", overfit, "train on the first n samples alone, over and over; 0 is on all")
      .at_least(0);
}

void DebugOptions::bind(config::Binder& b) {
  b.key("anomaly", anomaly, "name the operation whose gradient is NaN; slow").free();
  b.key("norms_every", norms_every,
        "steps between lines of gradient and activation norms; 0 is none")
      .at_least(0)
      .free();
  b.key("flip_bit_rank", flip_bit_rank,
        "flip a bit of a weight on this rank, to see guard.replicas_every find it; -1 is off")
      .at_least(-1)
      .free();
  b.key("flip_bit_step", flip_bit_step, "after this many steps").at_least(-1).free();
  b.key("phases", phases, "RUN/phase-RANK says what each rank is doing, for who kills it").free();
}

void EvalOptions::bind(config::Binder& b) {
  b.key("every", every, "steps; 0 is only at the end").at_least(0).free();
  b.list("data", data, "path");
  b.key("batch_size", batch_size, "clips a rank runs at once").range(1, 1 << 20).free();
  b.key("max_items", max_items, "only the first n items; 0 is all").at_least(0).free();
  b.group("views", views);
}

void LogOptions::bind(config::Binder& b) {
  b.key("every", every, "steps").at_least(1).free();
  b.key("samples", samples, "write samples-RANK.jsonl").free();
}

void Recipe::bind(config::Binder& b) {
  b.key("seed", seed, "of everything random").at_least(0);
  b.list("data", data, "path");
  b.group("clip", clip);
  b.group("augment", augment);
  b.group("objective", objective);
  b.key("init_from", init_from, "run or checkpoint folder to take first weights from");
  b.choice("init_weights", init_weights, {"auto", "model", "ema"},
           "of init_from: its averaged weights where there are any, or one of the two");
  b.key("batch_size", batch_size, "clips, over all ranks").range(1, 1 << 24);
  b.key("micro_batch_size", micro_batch_size, "clips a rank runs at once; 0 is all of its own")
      .at_least(0)
      .free();
  const bool has_steps = b.peek("steps").has_value(), has_epochs = b.peek("epochs").has_value();
  b.key("steps", steps, "of the whole run; or epochs").at_least(-1).free();
  b.key("epochs", epochs, "of the whole run; or steps").at_least(0).free();
  if (b.is_reading()) {
    if (has_steps && has_epochs && steps >= 0 && epochs > 0)
      b.refuse("epochs", "and steps cannot both be given");
    if (steps < 0 && epochs <= 0)
      fail(ErrorKind::kUsage, "{}: steps is missing (or epochs); add one of them", b.place());
    if (steps >= 0) epochs = 0;
  }
  b.group("optimizer", optimizer);
  b.choice("precision", precision, {"auto", "fp32", "bf16", "float64"},
           "auto is bf16 where the processor is fast at it, else fp32");
  b.group("train", train);
  b.group("reduce", reduce);
  b.group("guard", guard);
  b.group("debug", debug);
  b.group("loader", loader);
  b.group("checkpoint", checkpoint);
  b.group("eval", eval);
  b.free_all("eval.");  // what is measured on the side does not change what is computed
  b.group("log", log);
  b.key("run", run, "run folder; empty is runs/RECIPE-HASH8").free();
}

Recipe load_recipe(const std::string& path, const std::vector<std::string>& overrides) {
  config::Node node = config::read_recipe(path);
  for (const std::string& assignment : overrides) {
    // `steps` given on the command line takes the place of the file's `epochs`, and the other way.
    for (const auto& [given, other] :
         {std::pair("steps=", "epochs"), std::pair("epochs=", "steps")})
      if (assignment.rfind(given, 0) == 0)
        std::erase_if(node.map,
                      [other = other](const auto& entry) { return entry.first == other; });
    config::apply_override(node, assignment);
  }
  Recipe recipe;
  config::read_options(node, recipe);
  return recipe;
}

uint64_t defining_hash(const Recipe& recipe) {
  std::string text;
  for (const config::Entry& entry : config::list_entries(recipe))
    if (!entry.is_free) text += entry.path + "=" + entry.value + "\n";
  return xxh3(std::string_view(text));
}

std::string run_folder_of(const Recipe& recipe, const std::string& recipe_path) {
  if (!recipe.run.empty()) return recipe.run;
  return fmt::format("runs/{}-{}", std::filesystem::path(recipe_path).stem().string(),
                     hex64(defining_hash(recipe)).substr(0, 8));
}

std::unique_ptr<objective::Objective> make_objective(const Recipe& recipe,
                                                     const data::Dataset& dataset, int64_t steps) {
  objective::ObjectiveContext context;
  context.steps = steps;
  context.repeats = dataset.group_size();
  context.num_frames = recipe.clip.num_frames;
  context.size = recipe.clip.size;
  context.seed = uint64_t(recipe.seed);
  context.class_names = dataset.class_names();
  context.targets = target_columns(dataset);
  context.dtype = recipe.precision == "float64" ? at::kDouble : at::kFloat;
  auto objective = recipe.objective.options->make(context);
  check_shares(*objective, dataset);
  return objective;
}

void check_eval_data(const objective::Objective& objective, const data::Dataset& dataset,
                     const data::Dataset& eval) {
  if (objective.needs_label() && eval.class_names() != dataset.class_names())
    fail(ErrorKind::kUsage,
         "eval.data {} has other classes than data {}; index them with the same ones",
         eval.describe(), dataset.describe());
  if (objective.target_need() == objective::Objective::TargetNeed::kNone) return;
  if (eval.target_names() != dataset.target_names())
    fail(ErrorKind::kUsage,
         "eval.data {} has other targets than data {} ({}; {}); give both the same columns in the "
         "same order",
         eval.describe(), dataset.describe(), fmt::join(eval.target_names(), ", "),
         fmt::join(dataset.target_names(), ", "));
  check_shares(objective, eval);
}

std::vector<objective::TargetColumn> target_columns(const data::Dataset& dataset) {
  std::vector<objective::TargetColumn> columns;
  for (const data::TargetColumn& column : dataset.target_columns())
    columns.push_back({column.name, column.mean, column.std});
  return columns;
}

}  // namespace keiko::train
