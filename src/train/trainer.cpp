#include "train/trainer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/machine.h"
#include "data/overlap.h"
#include "dist/gradient_reducer.h"
#include "model/runners.h"
#include "optim/schedule.h"
#include "train/batch_cut.h"
#include "train/checkpoint.h"
#include "train/evaluation.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/signals.h"

namespace keiko::train {
namespace {

using nlohmann::ordered_json;

// A run in progress: everything that train() sets up, and one method for each thing that a step
// does.
class Run {
 public:
  Run(const Recipe& recipe, const TrainContext& context);
  TrainResult go();

 private:
  // Sums over all ranks of one step, in the order of the vector that is reduced.
  struct StepSums {
    double loss = 0;
    std::vector<double> metrics;
    int64_t bad = 0;            // replaced samples
    int64_t stop_requests = 0;  // ranks asked to stop
    int64_t unwritten = 0;      // ranks whose checkpoint files are not on the disk yet
    int64_t decoded_frames = 0;
  };

  void resume();
  void calibrate();
  StepSums run_micro_batches(data::Batch& batch);
  double reduce_gradients();
  bool may_update(double loss, double grad_norm);
  void update(double grad_norm);
  void watch(const StepFigures& figures);
  void record_samples(const data::Batch& batch);
  void quarantine(const data::Batch& batch, int64_t total);
  void save(bool wait);
  void evaluate_now();
  // "look at its samples with `keiko preview ...`"
  std::string look_at_samples() const {
    return fmt::format("look at its samples with `keiko preview {} --step {}`", context_.run_folder,
                       step_);
  }
  bool is_first() const { return context_.communicator->rank() == 0; }

  const Recipe& recipe_;
  const TrainContext& context_;
  Env* env_;
  dist::Communicator& communicator_;
  ThreadShare threads_;
  data::Dataset dataset_;
  std::unique_ptr<data::Dataset> eval_dataset_;
  std::unique_ptr<objective::Objective> objective_;
  std::unique_ptr<optim::AdamW> optimizer_;
  optim::Schedule schedule_;
  bool use_autocast_ = false;
  int64_t steps_ = 0;
  int64_t step_ = 0;  // completed updates
  int64_t bad_samples_ = 0;
  StepGuard guard_;
  bool watches_norms_ = false;  // in this step
  int64_t last_alarm_ = -1;     // step; -1: none is on
  std::vector<std::pair<std::string, double>> norms_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  std::unique_ptr<RunLog> log_;
  nlohmann::json restored_state_;
  TrainResult result_;
};

Run::Run(const Recipe& recipe, const TrainContext& context)
    : recipe_(recipe),
      context_(context),
      env_(context.env),
      communicator_(*context.communicator),
      threads_(share_threads(recipe, context.launch, usable_cores())),
      dataset_(env_, recipe.data, recipe.clip, recipe.augment, uint64_t(recipe.seed),
               recipe.loader.shuffle_block),
      guard_(recipe.guard) {
  dataset_.overfit(recipe.train.overfit);
  set_up_compute(recipe, threads_);
  use_autocast_ = resolve_precision(recipe) == "bf16";
  if (!recipe.eval.data.empty()) {
    eval_dataset_ =
        std::make_unique<data::Dataset>(env_, recipe.eval.data, recipe.clip, recipe.augment,
                                        uint64_t(recipe.seed), 1, recipe.eval.views);
    if (is_first()) data::warn_of_overlap(dataset_, *eval_dataset_);
  }
  const double epoch_steps = double(dataset_.epoch_size()) / double(recipe.batch_size);
  steps_ = recipe.steps >= 0 ? recipe.steps : int64_t(std::ceil(recipe.epochs * epoch_steps));
  objective_ = make_objective(recipe, dataset_, steps_);
  if (eval_dataset_ && objective_->needs_label() &&
      eval_dataset_->class_names() != dataset_.class_names())
    fail(ErrorKind::kUsage,
         "eval.data {} has other classes than data {}; index them with the same ones",
         eval_dataset_->describe(), dataset_.describe());
  if (recipe.optimizer.layer_decay < 1) {
    if (objective_->head_block() == 0)
      fail(ErrorKind::kUsage, "optimizer.layer_decay = {}: objective {} has no layers below a head",
           recipe.optimizer.layer_decay, recipe.objective.name);
    optim::decay_layers(objective_->parameters(), recipe.optimizer.layer_decay,
                        objective_->head_block());
  }
  optimizer_ = std::make_unique<optim::AdamW>(objective_->parameters(), recipe.optimizer);
  schedule_ = recipe.optimizer.schedule(recipe.batch_size, steps_, epoch_steps);

  // Rank 0 decides whether the folder may be used; the others hear of a refusal.
  std::string refusal;
  std::optional<Error> error;
  if (is_first()) {
    try {
      enter_run_folder(env_, context.run_folder, recipe,
                       {dataset_.hash(), dataset_.describe(), context.command_line},
                       context.allowed_changes, communicator_.world_size());
      log_to_file(context.run_folder + "/log.txt");
    } catch (const Error& e) {
      error = e;
      refusal = e.what();
    }
  }
  refusal = communicator_.broadcast_text(refusal);
  if (error) throw *error;
  if (!refusal.empty()) fail(ErrorKind::kUsage, "rank 0 refused to start; see its message");
  check_shared(env_, context.run_folder, communicator_);
  checkpoints_ = std::make_unique<CheckpointWriter>(
      env_, communicator_, context.run_folder + "/checkpoints", recipe.checkpoint.keep);
  resume();
  log_ = std::make_unique<RunLog>(env_, context.run_folder, communicator_.rank(),
                                  recipe.log.samples, restored_state_);
}

void Run::resume() {
  std::string folder;
  if (is_first()) folder = find_checkpoint(env_, context_.run_folder + "/checkpoints").value_or("");
  folder = communicator_.broadcast_text(folder);
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
  const LoadedCheckpoint loaded = load_checkpoint(env_, folder, true);
  const auto unmatched = objective_->load_weights(loaded.weights);
  objective_->load_ema(loaded.ema);
  if (!unmatched.missing.empty() || !unmatched.unused.empty())
    fail(ErrorKind::kData, "{}: does not hold this model: {} missing, {} unknown (the first: {})",
         folder, unmatched.missing.size(), unmatched.unused.size(),
         unmatched.missing.empty() ? unmatched.unused[0] : unmatched.missing[0]);
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : optimizer_->state()) {
    const auto found = std::find_if(loaded.optimizer.begin(), loaded.optimizer.end(),
                                    [&](const auto& entry) { return entry.first == name; });
    if (found == loaded.optimizer.end() || found->second.numel() != tensor.numel())
      fail(ErrorKind::kData, "{}: the optimiser state {} is missing or of another size", folder,
           name);
    tensor.copy_(found->second);
  }
  restored_state_ = loaded.state;
  step_ = loaded.state.at("step");
  bad_samples_ = loaded.state.value("bad_samples", int64_t{0});
  if (loaded.state.contains("guard")) guard_.restore(loaded.state["guard"]);
  if (!is_first()) return;
  spdlog::info("resuming from {} at step {}", folder, step_);
  warn_of_other_conditions(loaded.state,
                           computing_conditions(recipe_, threads_, communicator_.world_size()));
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
      0, true, threads_.decode, 2, context_.make_decoder);
  for (int64_t done = 0; done < clips;) {
    data::Batch& batch = loader.next();
    if (batch.gave_up)
      fail(ErrorKind::kTooMuchBad, "the first samples are all bad; the last: {}",
           batch.bad.back().reason);
    const AutocastGuard autocast(use_autocast_);
    objective_->calibrate(view_batch(batch, recipe_.clip, 0, int64_t(batch.clips.size())));
    done += int64_t(batch.clips.size());
  }
  // Unlike processors may differ in the last bit: rank 0's statistics are everyone's.
  for (auto& [name, tensor] : objective_->statistics()) communicator_.broadcast(tensor, 0);
}

Run::StepSums Run::run_micro_batches(data::Batch& batch) {
  const int64_t clips = int64_t(batch.clips.size());
  const int64_t micro = micro_batch_of(recipe_, clips, group_of(recipe_));
  const size_t metric_count = objective_->metric_names().size();
  const model::BlockRunner straight;
  const model::CheckpointingRunner checkpointing;
  const model::BlockRunner& runner =
      recipe_.train.activation_checkpointing ? checkpointing : straight;
  double loss = 0;
  at::Tensor metrics = at::zeros({int64_t(metric_count)}, at::kDouble);
  // A rank short of clips runs fewer micro-batches: no collective happens inside them, so the
  // others do not wait for it there.
  for (int64_t first = 0; first < clips; first += micro) {
    const auto view = view_training_batch(batch, recipe_, first, std::min(clips, first + micro));
    if (objective_->needs_label() && view.label.lt(0).any().item<bool>())
      fail(ErrorKind::kUsage, "{}: an item has no label, which objective {} needs",
           dataset_.describe(), recipe_.objective.name);
    objective::LossSums sums;
    {
      const AutocastGuard autocast(use_autocast_);
      if (watches_norms_ && first == 0) {  // of rank 0's first micro-batch
        const model::WatchingRunner watching(runner);
        sums = objective_->loss(view, watching);
        for (const auto& [block, rms] : watching.seen())
          norms_.emplace_back(fmt::format("activation/{:02}.block{:02}", norms_.size(), block),
                              rms);
      } else {
        sums = objective_->loss(view, runner);
      }
    }
    try {
      sums.loss.backward();
    } catch (const c10::Error& e) {
      if (!recipe_.debug.anomaly) throw;
      fail(ErrorKind::kData, "step {}: {}; {}", step_, e.what_without_backtrace(),
           look_at_samples());
    }
    loss += sums.loss.item<double>();
    if (sums.metrics.defined()) metrics += sums.metrics;
  }

  // One all-reduce carries every scalar of the step, decisions included, so all ranks agree on
  // them.
  at::Tensor all = at::zeros({int64_t(5 + metric_count)}, at::kDouble);
  double* v = all.data_ptr<double>();
  v[0] = loss;
  v[1] =
      double(batch.bad.size()) + (batch.gave_up ? double(recipe_.loader.max_bad_samples) + 1 : 0);
  v[2] = preemption_requested() ? 1 : 0;
  v[3] = checkpoints_->is_saving() && !checkpoints_->is_written() ? 1 : 0;
  v[4] = double(batch.cost.packets_decoded);
  for (size_t i = 0; i < metric_count; ++i) v[5 + i] = metrics[int64_t(i)].item<double>();
  communicator_.all_reduce(all)->wait();
  StepSums sums;
  sums.loss = v[0];
  sums.bad = int64_t(v[1]);
  sums.stop_requests = int64_t(v[2]);
  sums.unwritten = int64_t(v[3]);
  sums.decoded_frames = int64_t(v[4]);
  sums.metrics.assign(v + 5, v + 5 + metric_count);
  return sums;
}

// Sums gradients over ranks and averages them over the batch. Returns their norm.
double Run::reduce_gradients() {
  auto& parameters = objective_->parameters();
  dist::reduce_gradients(communicator_, parameters);
  optim::scale_gradients(parameters, 1.0 / double(recipe_.batch_size));
  if (watches_norms_)
    for (const auto& buffer : parameters.buffers())
      norms_.emplace_back("grad/" + buffer.name, buffer.grad.norm().item<double>());
  return optim::gradient_norm(parameters);
}

// All ranks see the same numbers, so all skip or stop here, before the weights change.
bool Run::may_update(double loss, double grad_norm) {
  const StepGuard::Judgement judgement = guard_.judge(loss, grad_norm);
  if (judgement.verdict == StepGuard::Verdict::kGood) return true;
  const std::string look = look_at_samples();
  if (judgement.verdict == StepGuard::Verdict::kStop)
    fail(ErrorKind::kData,
         "step {}: {}; {}. To go on from the last checkpoint, lower optimizer.base_lr or "
         "optimizer.clip_grad with --allow-change=optimizer, or change guard.{}",
         step_, judgement.reason, look, judgement.key);
  const bool skips = judgement.verdict == StepGuard::Verdict::kSkip;
  if (is_first())
    log_->write_warning(step_, skips ? "skipped_step" : "spike",
                        fmt::format("{}; {}{}", judgement.reason,
                                    skips ? "the weights stay as they are; " : "", look));
  return !skips;
}

// Clips and steps.
void Run::update(double grad_norm) {
  if (recipe_.optimizer.clip_grad > 0)  // as torch.nn.utils.clip_grad_norm_
    optim::scale_gradients(objective_->parameters(),
                           std::min(1.0, recipe_.optimizer.clip_grad / (grad_norm + 1e-6)));
  optimizer_->step(optim::lr_at(schedule_, step_), recipe_.optimizer.weight_decay_at(step_, steps_),
                   step_ + 1);
  objective_->after_step(step_ + 1);
}

// What the step's figures and norms say to those who watch.
void Run::watch(const StepFigures& figures) {
  if (!is_first()) return;
  if (watches_norms_) log_->write_norms(step_, norms_);
  std::vector<double> metrics;
  for (const auto& [name, value] : figures.metrics) metrics.push_back(value);
  const std::string alarm = objective_->alarm(metrics);
  // Once when it begins, and again every thousand steps.
  if (!alarm.empty() && (last_alarm_ < 0 || step_ >= last_alarm_ + 1000)) {
    log_->write_warning(step_, "alarm", alarm);
    last_alarm_ = step_;
  }
  if (alarm.empty()) last_alarm_ = -1;
}

void Run::record_samples(const data::Batch& batch) {
  if (!recipe_.log.samples) return;
  for (const data::ClipPlan& plan : batch.clips) log_->write_sample(batch.step, plan);
}

// Lists replaced samples in quarantine.jsonl and stops the run when there are too many.
void Run::quarantine(const data::Batch& batch, int64_t total) {
  if (total == 0) return;
  ordered_json mine = ordered_json::array();
  for (const auto& bad : batch.bad)
    mine.push_back({{"step", batch.step},
                    {"position", bad.position},
                    {"attempt", bad.attempt},
                    {"path", bad.path},
                    {"reason", bad.reason}});
  for (int64_t rank = 0; rank < communicator_.world_size(); ++rank) {
    // Each rank in turn tells the others.
    std::string text = communicator_.rank() == rank ? json_text(mine) : "";
    at::Tensor size = at::tensor(int64_t(text.size()));
    communicator_.broadcast(size, rank);
    at::Tensor bytes = at::zeros({std::max<int64_t>(1, size.item<int64_t>())}, at::kByte);
    std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
    communicator_.broadcast(bytes, rank);
    if (!is_first()) continue;
    const auto* first = bytes.data_ptr<uint8_t>();
    log_->write_quarantine(ordered_json::parse(first, first + size.item<int64_t>()));
  }
  bad_samples_ += total;
  if (bad_samples_ > recipe_.loader.max_bad_samples)
    fail(ErrorKind::kTooMuchBad,
         "{} bad samples, more than loader.max_bad_samples = {}; see {}/quarantine.jsonl",
         bad_samples_, recipe_.loader.max_bad_samples, context_.run_folder);
}

void Run::save(bool wait) {
  CheckpointContent content;
  content.step = step_;
  // The clones are the host copy: training may change the originals from here on.
  for (const auto& [name, tensor] :
       shard(optimizer_->state(), communicator_.rank(), communicator_.world_size()))
    content.optimizer.emplace_back(name, tensor.clone());
  content.weights_hash = objective_->parameters().hash();
  content.samples_length = log_->sync_samples();
  if (is_first()) {
    for (const auto& [name, tensor] : objective_->weights())
      content.weights.emplace_back(name, tensor.clone());
    for (const auto& [name, tensor] : objective_->ema_weights())
      content.ema.emplace_back(name, tensor.clone());
    content.config = objective_->config();
    content.state = log_->sync_and_describe();
    content.state["seed"] = recipe_.seed;
    content.state["recipe_hash"] = hex64(defining_hash(recipe_));
    content.state["data_hash"] = hex64(dataset_.hash());
    content.state["bad_samples"] = bad_samples_;
    content.state["guard"] = guard_.state();
    const ordered_json conditions =
        computing_conditions(recipe_, threads_, communicator_.world_size());
    for (const auto& [key, value] : conditions.items()) content.state[key] = value;
    content.state["time"] = utc_now();
  }
  checkpoints_->save(std::move(content));
  if (wait) checkpoints_->commit();
}

void Run::evaluate_now() {
  if (!eval_dataset_) return;
  const double start = monotonic_s();
  ordered_json summary;
  {
    const AutocastGuard autocast(use_autocast_);
    summary = evaluate(env_, *objective_, *eval_dataset_, recipe_.eval, threads_.decode,
                       communicator_, context_.make_decoder, {});
  }
  result_.evaluation = summary;
  if (is_first()) log_->write_evaluation(step_, summary, monotonic_s() - start);
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
        threads_.decode == 1 ? "" : "s", resolve_precision(recipe_));
  }
  if (steps_ == 0 && restored_state_.is_null()) save(true);
  if (step_ >= steps_) {
    if (is_first()) spdlog::info("nothing to do: {} of {} steps are done", step_, steps_);
    if (is_first()) log_->finish();
    return result_;
  }

  data::Loader loader(
      env_, dataset_,
      [&](int64_t step) {
        // Past the end there is nothing to decode ahead.
        return step < steps_
                   ? slice_of_rank(step, recipe_.batch_size, group_of(recipe_), rank, world)
                   : data::Slice{};
      },
      step_, true, threads_.decode, int(recipe_.loader.prefetch), context_.make_decoder);
  log_->start_clock(step_, steps_);
  bool saved_now = false, evaluated_now = false;
  while (step_ < steps_ && !result_.is_preempted) {
    StepFigures figures;
    const double start = monotonic_s();
    data::Batch& batch = loader.next();
    figures.data_wait_s = monotonic_s() - start;
    record_samples(batch);
    objective_->parameters().zero_grad();
    watches_norms_ = recipe_.debug.norms_every > 0 && step_ % recipe_.debug.norms_every == 0;
    norms_.clear();
    const StepSums sums = run_micro_batches(batch);
    quarantine(batch, sums.bad);
    figures.loss = sums.loss / double(recipe_.batch_size);
    figures.lr = optim::lr_at(schedule_, step_);
    const double before_update = monotonic_s();
    figures.grad_norm = reduce_gradients();
    if (may_update(figures.loss, figures.grad_norm)) update(figures.grad_norm);
    figures.update_s = monotonic_s() - before_update;
    for (size_t i = 0; i < sums.metrics.size(); ++i)
      figures.metrics.emplace_back(objective_->metric_names()[i],
                                   sums.metrics[i] / double(recipe_.batch_size));
    watch(figures);
    figures.step_s = monotonic_s() - start;
    figures.position = (step_ + 1) * recipe_.batch_size;
    figures.epoch = double(figures.position) / double(dataset_.epoch_size());
    figures.clips = recipe_.batch_size;
    figures.frames = recipe_.batch_size * recipe_.clip.num_frames;
    figures.decoded_frames = sums.decoded_frames;
    figures.flops = objective_->flops_per_clip() * double(recipe_.batch_size);
    ++step_;
    result_.step = step_;
    if (is_first()) log_->write_step(step_, figures, recipe_.log.every);

    // Everyone's files are down: make the checkpoint count.
    if (checkpoints_->is_saving() && sums.unwritten == 0) checkpoints_->commit();
    result_.is_preempted = sums.stop_requests > 0 && step_ < steps_;
    const bool is_last = step_ == steps_ || result_.is_preempted;
    evaluated_now =
        eval_dataset_ && !result_.is_preempted &&
        (step_ == steps_ || (recipe_.eval.every > 0 && step_ % recipe_.eval.every == 0));
    if (evaluated_now) evaluate_now();
    saved_now = is_last || (recipe_.checkpoint.every > 0 && step_ % recipe_.checkpoint.every == 0);
    if (saved_now) save(is_last);
  }
  if (is_first()) {
    if (result_.is_preempted)
      spdlog::info("stopped by a signal after step {}, which is saved; start again to go on",
                   step_);
    log_->finish();
  }
  return result_;
}

}  // namespace

TrainResult train(const Recipe& recipe, const TrainContext& context) {
  catch_preemption();
  return Run(recipe, context).go();
}

}  // namespace keiko::train
