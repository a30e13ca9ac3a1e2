#include "train/trainer.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/machine.h"
#include "cuda/memory.h"
#include "train/agreement.h"
#include "train/batch_cut.h"
#include "train/evaluation.h"
#include "train/range.h"
#include "train/run.h"
#include "train/signals.h"

namespace keiko::train {

using nlohmann::ordered_json;

void Run::save(bool wait, std::optional<uint64_t> weights_hash) {
  phases_.set(Phase::kHostCopy);
  std::optional<Range> range("host copy");
  if (blocks_) blocks_->gather_all();
  CheckpointContent content =
      copy_content(step_, *objective_, *optimizer_, communicator_, shards_.get(), weights_hash);
  content.samples_length = log_->sync_samples();
  if (is_first()) {
    content.state = log_->sync_and_describe();
    content.state["seed"] = recipe_.seed;
    content.state["recipe_hash"] = hex64(defining_hash(recipe_));
    content.state["data_hash"] = hex64(dataset_.hash());
    content.state["bad_samples"] = bad_samples_;
    content.state["guard"] = guard_.state();
    const ordered_json conditions = computing_conditions(
        recipe_, threads_, communicator_.world_size(), gpu_name(), context_.decoded_on);
    for (const auto& [key, value] : conditions.items()) content.state[key] = value;
    content.state["time"] = utc_now();
  }
  if (blocks_) blocks_->drop_all();
  range.reset();
  phases_.set(Phase::kCommit);  // of an earlier save
  range.emplace("commit");
  checkpoints_->save(std::move(content));
  say_committed();
  range.reset();
  if (!wait) return;
  commit();
  checkpoints_->wait_for_removal();
}

void Run::commit() {
  phases_.set(Phase::kCommit);
  const Range range("commit");
  checkpoints_->commit();
  say_committed();
}

void Run::finish_save() {
  if (!checkpoints_->is_saving()) return;
  try {
    commit();
    if (is_first())
      spdlog::info("the checkpoint of step {} is saved", checkpoints_->committed_step());
  } catch (const std::exception& e) {
    spdlog::warn("{}", e.what());  // why the run ends is said by who throws
  }
}

void Run::say_committed() {
  if (context_.control && checkpoints_->committed_step() >= 0)
    context_.control->saved(checkpoints_->committed_step());
}

void Run::evaluate_now() {
  if (!eval_dataset_) return;
  const Range range("evaluation");
  const double start = monotonic_s();
  if (blocks_) blocks_->gather_all();
  ordered_json summary;
  {
    const AutocastGuard autocast(use_autocast_, device_.type());
    summary = evaluate(env_, *objective_, *eval_dataset_, recipe_.eval, threads_.decode,
                       communicator_, context_.make_decoder, {}, context_.make_buffer);
  }
  if (blocks_) blocks_->drop_all();
  result_.evaluation = summary;
  if (is_first()) log_->write_evaluation(step_, summary, monotonic_s() - start);
}

media::MakeBuffer Run::make_buffer() const {
  if (context_.make_buffer || !context_.accelerator) return context_.make_buffer;
  return [gpu = int(device_.index())] {
    return std::make_unique<cuda::PinnedBuffer>(gpu, "the frames of a batch");
  };
}

// What follows a step: evaluation and checkpoint where they are due.
void Run::finish_step() {
  inject_fault();

  // Everyone's files are down: make the checkpoint count.
  if (checkpoints_->is_saving() && unwritten_ == 0) commit();
  result_.is_preempted = stop_requests_ > 0 && step_ < steps_;
  const bool is_last = step_ == steps_ || result_.is_preempted;
  if (eval_dataset_ && !result_.is_preempted && (step_ == steps_ || is_due(recipe_.eval.every)))
    evaluate_now();
  const bool saves = is_last || is_due(recipe_.checkpoint.every);
  std::optional<uint64_t> weights_hash;
  if (!shards_ && (saves || is_due(recipe_.guard.replicas_every)))
    weights_hash = check_replicas(objective_->parameters(), step_, communicator_);
  if (!holds_whole() && shards_->replicas().world_size() > 1 &&
      (saves || is_due(recipe_.guard.replicas_every)))
    check_parts(objective_->parameters(), optimizer_->owned(), shards_->group().world_size(), step_,
                communicator_);
  if (saves) save(is_last, weights_hash);
}

TrainResult Run::go() {
  const int64_t rank = communicator_.rank(), world = communicator_.world_size();
  result_.step = step_;
  if (is_first()) {
    const auto& p = objective_->parameters();
    spdlog::info(
        "run {}: {} parameters trained, {} steps of {} clips, {} rank{}, {} compute and {} "
        "decode thread{} each, {}",
        context_.run_folder, report::count_text(p.count()), report::count_text(steps_),
        recipe_.batch_size, world, world == 1 ? "" : "s", threads_.compute, threads_.decode,
        threads_.decode == 1 ? "" : "s", resolve_precision(recipe_, device_.type()));
    if (context_.accelerator)
      spdlog::info("computing on {}, one a rank; videos are decoded on {}", gpu_name(),
                   context_.decoded_on == "nvdec" ? "it" : "the CPU");
  }
  if (steps_ == 0 && restored_state_.is_null()) save(true, std::nullopt);
  trace_.check(step_, steps_);
  if (step_ >= steps_) {
    if (is_first()) spdlog::info("nothing to do: {} of {} steps are done", step_, steps_);
    if (is_first()) log_->finish();
    return result_;
  }

  loader_ = std::make_unique<data::Loader>(
      env_, dataset_,
      [&](int64_t step) {
        // Past the end there is nothing to decode ahead.
        return step < steps_
                   ? slice_of_rank(step, recipe_.batch_size, group_of(recipe_), rank, world)
                   : data::Slice{};
      },
      step_, true, threads_.decode, int(recipe_.loader.prefetch), context_.make_decoder,
      make_buffer());
  log_->start_clock(step_, steps_);
  while (step_ < steps_ && !result_.is_preempted) {
    const int64_t number = step_;
    trace_.begin(number);
    double step_s = 0;
    {
      const Range range(fmt::format("step {}", number));
      const StepFigures figures = step(*loader_);
      step_s = figures.step_s;
      ++step_;
      result_.step = step_;
      if (is_first()) log_->write_step(step_, figures, recipe_.log.every);
      finish_step();
    }
    const auto traced = trace_.end(number, step_s, step_ == steps_ || result_.is_preempted);
    if (traced && is_first()) log_->write_trace(number, *traced);
  }
  if (is_first()) {
    if (result_.is_preempted)
      spdlog::info("stopped by a signal after step {}, which is saved; start again to go on",
                   step_);
    log_->finish();
  }
  return result_;
}

TrainResult train(const Recipe& recipe, const TrainContext& context) {
  catch_preemption();
  const auto tell = [&](ErrorKind kind, const std::string& message) {
    if (context.on_error) context.on_error(kind, message);
  };
  for (int64_t rollbacks = 0;;) {
    std::unique_ptr<Run> run;
    try {
      run = std::make_unique<Run>(recipe, context);
      try {
        return run->go();
      } catch (const AgreedStop&) {
        run->finish_save();
        throw;
      }
    } catch (const Diverged& e) {
      // All ranks see the same hashes and come here together.
      if (recipe.guard.replicas != "rollback" || ++rollbacks > recipe.guard.max_rollbacks) {
        tell(e.kind(), e.what());
        throw;
      }
      spdlog::error("{}; going back to the last checkpoint ({} of {} times)", e.what(), rollbacks,
                    recipe.guard.max_rollbacks);
    } catch (const Error& e) {
      tell(e.kind(), e.what());
      throw;
    } catch (const c10::OutOfMemoryError& e) {
      const Error error(ErrorKind::kIo, fmt::format("{}; lower micro_batch_size, or set "
                                                    "train.activation_checkpointing or train.shard",
                                                    e.what_without_backtrace()));
      tell(error.kind(), error.what());
      throw error;
    } catch (const std::exception& e) {
      tell(ErrorKind::kInternal, e.what());
      throw;
    }
  }
}

}  // namespace keiko::train
