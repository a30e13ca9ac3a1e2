#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "data/overlap.h"
#include "dist/gradient_reducer.h"
#include "train/agreement.h"
#include "train/evaluation.h"
#include "train/restore.h"
#include "train/run.h"
#include "train/run_folder.h"

namespace keiko::train {

Run::Run(const Recipe& recipe, const TrainContext& context)
    : recipe_(recipe),
      context_(context),
      env_(context.env),
      communicator_(*context.communicator),
      device_(context.accelerator ? context.accelerator->device() : at::Device(at::kCPU)),
      threads_(share_threads(recipe, context.launch, usable_cores(), !device_.is_cpu())),
      dataset_(env_, recipe.data, recipe.clip, recipe.augment, uint64_t(recipe.seed),
               recipe.loader.shuffle_block),
      guard_(recipe.guard),
      trace_(env_, context.trace, context.run_folder, communicator_.rank(), context.accelerator) {
  set_up_compute(recipe, threads_, recipe.train.shard != "none" && communicator_.world_size() > 1,
                 device_.type());
  use_autocast_ = resolve_precision(recipe, device_.type()) == "bf16";
  open_data();
  hosts_ = check_ranks_agree(
      identify_rank(recipe, dataset_.hash(), eval_dataset_ ? eval_dataset_->hash() : 0,
                    context.accelerator ? gpu_name() : "cpu",
                    resolve_precision(recipe, device_.type())),
      communicator_);
  make_model();
  enter_folder();
  resume();
  if (blocks_) blocks_->take_shares();
  log_ = std::make_unique<RunLog>(env_, context.run_folder, communicator_.rank(),
                                  communicator_.world_size(), recipe.log.samples, restored_state_);
}

void Run::open_data() {
  dataset_.overfit(recipe_.train.overfit);
  if (recipe_.eval.data.empty()) return;
  eval_dataset_ =
      std::make_unique<data::Dataset>(env_, recipe_.eval.data, recipe_.clip, recipe_.augment,
                                      uint64_t(recipe_.seed), 1, recipe_.eval.views);
  if (is_first()) data::warn_of_overlap(dataset_, *eval_dataset_);
}

void Run::make_model() {
  const double epoch_steps = double(dataset_.epoch_size()) / double(recipe_.batch_size);
  steps_ = recipe_.steps >= 0 ? recipe_.steps : int64_t(std::ceil(recipe_.epochs * epoch_steps));
  objective_ = make_objective(recipe_, dataset_, steps_);
  if (eval_dataset_) check_eval_data(*objective_, dataset_, *eval_dataset_);
  if (recipe_.optimizer.layer_decay < 1) {
    if (objective_->head_block() == 0)
      fail(ErrorKind::kUsage, "optimizer.layer_decay = {}: objective {} has no layers below a head",
           recipe_.optimizer.layer_decay, recipe_.objective.name);
    optim::decay_layers(objective_->parameters(), recipe_.optimizer.layer_decay,
                        objective_->head_block());
  }
  objective_->move_to(device_);
  averages_ = !objective_->ema_weights().empty();
  share_out();
  prepare_recording();
  schedule_ = recipe_.optimizer.schedule(recipe_.batch_size, steps_, epoch_steps);
}

// Who keeps and sums what.
void Run::share_out() {
  auto& parameters = objective_->parameters();
  const std::string what = communicator_.world_size() > 1 ? recipe_.train.shard : "none";
  if (what != "none")
    shards_ = std::make_unique<dist::Shards>(communicator_, parameters, recipe_.train.shard_group);
  std::vector<model::OwnedSlice> owned;
  if (what == "gradients" || what == "parameters") {
    auto blocks = std::make_unique<dist::ShardedBlocks>(*shards_, parameters, recipe_.reduce,
                                                        what == "parameters");
    blocks_ = blocks.get();
    owned = blocks->owned();
    reducer_ = std::move(blocks);
  } else {
    if (shards_) owned = shards_->owned_of_whole();
    reducer_ = std::make_unique<dist::GradientReducer>(communicator_, parameters, recipe_.reduce);
  }
  if (!holds_whole() && shards_->replicas().world_size() == 1) {
    if (recipe_.debug.flip_bit_rank >= 0)
      fail(
          ErrorKind::kUsage,
          "debug.flip_bit_rank = {}: with train.shard = parameters among all ranks no two hold the "
          "same weights, so nothing could find the flipped bit; use another train.shard, or "
          "train.shard_group",
          recipe_.debug.flip_bit_rank);
    if (recipe_.guard.replicas_every > 0 && is_first())
      spdlog::warn(
          "guard.replicas_every = {} compares nothing: with train.shard = parameters among all "
          "ranks "
          "no two hold the same weights (train.shard_group makes copies)",
          recipe_.guard.replicas_every);
  }
  optimizer_ = std::make_unique<optim::AdamW>(parameters, recipe_.optimizer, std::move(owned));
}

void Run::prepare_recording() {
  const std::string& wanted = recipe_.train.cuda_graph;
  if (wanted == "never") return;
  const int64_t world = communicator_.world_size();
  const bool sends_in_backward = world > 1 && (blocks_ || recipe_.reduce.overlap);
  const std::string why_not = why_not_recorded(
      {context_.recorder != nullptr, world, sends_in_backward, recipe_.debug.anomaly});
  if (why_not.empty()) {
    recorded_ = std::make_unique<RecordedPasses>(*objective_, *context_.recorder,
                                                 1.0 / double(recipe_.batch_size), use_autocast_,
                                                 recipe_.train.activation_checkpointing);
    return;
  }
  if (wanted == "always")
    fail(ErrorKind::kUsage,
         "train.cuda_graph = always, but nothing can be recorded: {}; set it to "
         "auto or never",
         why_not);
  if (is_first()) spdlog::info("train.cuda_graph: nothing is recorded: {}", why_not);
}

// Rank 0 decides whether the folder may be used; the others hear of a refusal.
void Run::enter_folder() {
  std::string refusal;
  std::optional<Error> error;
  if (is_first()) {
    try {
      enter_run_folder(env_, context_.run_folder, recipe_,
                       {dataset_.hash(), dataset_.describe(), context_.command_line},
                       context_.allowed_changes, communicator_.world_size());
      log_to_file(context_.run_folder + "/log.txt");
    } catch (const Error& e) {
      error = e;
      refusal = e.what();
    }
  }
  refusal = communicator_.broadcast_text(refusal);
  if (error) throw *error;
  if (!refusal.empty()) fail(ErrorKind::kUsage, "rank 0 refused to start; see its message");
  check_shared(env_, context_.run_folder, communicator_);
  if (recipe_.debug.phases)
    phases_.open(fmt::format("{}/phase-{}", context_.run_folder, communicator_.rank()));
  checkpoints_ = std::make_unique<CheckpointWriter>(
      env_, communicator_, context_.run_folder + "/checkpoints", recipe_.checkpoint, phases_);
}

void Run::resume() {
  const std::string folder =
      find_checkpoint(env_, context_.run_folder + "/checkpoints", communicator_).value_or("");
  if (folder.empty()) {
    if (!recipe_.init_from.empty()) {
      const std::string source = resolve_weights(env_, recipe_.init_from);
      const std::string said =
          objective_->start_from(first_weights(env_, source, recipe_.init_weights));
      if (is_first()) spdlog::info("starting from {}: {}", source, said);
    }
    calibrate();
    return;
  }
  const nlohmann::json state = read_state(env_, folder);
  restore_weights(env_, folder, *objective_, holds_whole() ? nullptr : shards_.get());
  restore_moments(env_, folder, state.at("world_size"), *optimizer_);
  restored_state_ = state;
  step_ = state.at("step");
  if (context_.control) context_.control->saved(step_);
  bad_samples_ = state.value("bad_samples", int64_t{0});
  if (state.contains("guard")) guard_.restore(state["guard"]);
  if (!is_first()) return;
  spdlog::info("resuming from {} at step {}", folder, step_);
  warn_of_other_conditions(
      state, computing_conditions(recipe_, threads_, communicator_.world_size(), gpu_name(),
                                  context_.decoded_on));
}

// Every rank decodes the same clips.
void Run::calibrate() {
  constexpr int64_t kClipsAtOnce = 16;
  const int64_t clips = objective_->calibration_clips();
  if (clips == 0) return;
  data::Loader loader(
      env_, dataset_,
      [&](int64_t step) {
        return data::Slice{std::min(clips, step * kClipsAtOnce),
                           std::min(clips, (step + 1) * kClipsAtOnce)};
      },
      0, true, threads_.decode, 2, context_.make_decoder, context_.make_buffer);
  for (int64_t done = 0; done < clips;) {
    data::Batch& batch = loader.next();
    if (batch.gave_up)
      fail(ErrorKind::kTooMuchBad, "the first samples are all bad; the last: {}",
           batch.bad.back().reason);
    const AutocastGuard autocast(use_autocast_, device_.type());
    objective_->calibrate(
        to_device(view_batch(batch, recipe_.clip, 0, int64_t(batch.clips.size())), device_));
    if (context_.accelerator) context_.accelerator->synchronize();  // the batch is free again
    done += int64_t(batch.clips.size());
  }
  // Unlike processors may differ in the last bit: rank 0's statistics are everyone's.
  for (auto& [name, tensor] : objective_->statistics()) communicator_.broadcast(tensor, 0);
}

}  // namespace keiko::train
