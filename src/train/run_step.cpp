#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/machine.h"
#include "model/runners.h"
#include "optim/schedule.h"
#include "train/agreement.h"
#include "train/batch_cut.h"
#include "train/evaluation.h"
#include "train/range.h"
#include "train/run.h"
#include "train/signals.h"

namespace keiko::train {

using nlohmann::ordered_json;

StepFigures Run::step(data::Loader& loader) {
  StepFigures figures;
  const double start = monotonic_s();
  if (context_.control) context_.control->at_step(step_);
  phases_.set(Phase::kStep);
  data::Batch& batch = in_range("data wait", [&]() -> data::Batch& { return loader.next(); });
  figures.data_wait_s = monotonic_s() - start;
  record_samples(batch);
  reducer_->begin_step();
  watches_norms_ = is_due(recipe_.debug.norms_every);
  norms_.clear();
  const StepSums mine = run_micro_batches(batch);
  // A batch on the GPU is handed out before it is there. The step's work is done by now.
  if (batch.memory->device() >= 0) figures.data_wait_s = batch.memory->waited_s();
  // Reductions are under way; the step's figures queue behind them.
  phases_.set(Phase::kReduce);
  const double before_waiting = monotonic_s();
  const StepSums sums = in_range("reduce figures", [&] {
    return sum_over_ranks(mine, before_waiting - start, communicator_);
  });
  const double figures_there = monotonic_s();
  quarantine(batch, sums.bad);
  stop_requests_ = sums.stop_requests;
  unwritten_ = sums.unwritten;
  figures.loss = sums.loss / double(recipe_.batch_size);
  figures.lr = optim::lr_at(schedule_, step_);
  const double before_update = monotonic_s();
  figures.grad_norm = in_range("reduce gradients", [&] { return finish_gradients(); });
  // The figures queue behind the gradients, so most of the waiting is theirs.
  figures.reduce_wait_s = figures_there - before_waiting + reducer_->waited_s();
  phases_.set(Phase::kUpdate);
  if (shards_ && holds_whole()) check_copies();
  if (may_update(figures.loss, figures.grad_norm)) update(figures.grad_norm);
  figures.update_s = monotonic_s() - before_update;
  for (size_t i = 0; i < sums.metrics.size(); ++i)
    figures.metrics.emplace_back(objective_->metric_names()[i],
                                 sums.metrics[i] / double(recipe_.batch_size));
  watch(figures);
  watch_ranks(figures, sums.rank_s);
  figures.step_s = monotonic_s() - start;
  figures.position = (step_ + 1) * recipe_.batch_size;
  figures.epoch = double(figures.position) / double(dataset_.epoch_size());
  figures.clips = recipe_.batch_size;
  figures.frames = recipe_.batch_size * recipe_.clip.num_frames;
  figures.decoded_frames = sums.decoded_frames;
  figures.flops = objective_->flops_per_clip() * double(recipe_.batch_size);
  return figures;
}

// This rank's sums; its gradients are in their buffers, or already on their way.
StepSums Run::run_micro_batches(data::Batch& batch) {
  const int64_t clips = int64_t(batch.clips.size());
  const int64_t micro = micro_batch_of(recipe_, clips, group_of(recipe_));
  const int64_t metric_count = int64_t(objective_->metric_names().size());
  const model::BlockRunner straight;
  const model::CheckpointingRunner checkpointing;
  const model::BlockRunner& inner =
      recipe_.train.activation_checkpointing ? checkpointing : straight;
  std::optional<dist::ShardingRunner> sharding;
  if (blocks_) sharding.emplace(*blocks_, inner);
  const NamingRunner named(sharding ? *sharding : inner);
  const bool gives_names = trace_.is_on() || !device_.is_cpu();
  const model::BlockRunner& runner = gives_names ? named : sharding ? *sharding : inner;
  StepSums mine;
  const auto figures = at::TensorOptions().dtype(at::kDouble).device(device_);
  at::Tensor metrics = at::zeros({metric_count}, figures), loss = at::zeros({}, figures);
  // A rank short of clips runs fewer micro-batches: only the last one of each rank sends gradients,
  // so the others do not wait for it in those before. Where every pass has collectives, it runs its
  // first clips again instead, for nothing.
  const int64_t passes =
      blocks_ ? most_micro_batches(recipe_, group_of(recipe_), communicator_.world_size())
              : (clips + micro - 1) / micro;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const bool is_padding = pass * micro >= clips;
    const int64_t first = is_padding ? 0 : pass * micro;
    const auto view = view_training_batch(batch, recipe_, first, std::min(clips, first + micro));
    if (objective_->needs_label() && view.label.lt(0).any().item<bool>())
      fail(ErrorKind::kUsage, "{}: an item has no label, which objective {} needs",
           dataset_.describe(), recipe_.objective.name);
    reducer_->begin_pass(pass + 1 == passes);
    // Gradients are means over the global batch from the start: no pass over them to divide.
    const objective::LossSums sums =
        run_pass(view, runner, is_padding ? 0 : 1.0 / double(recipe_.batch_size),
                 watches_norms_ && pass == 0);
    reducer_->end_pass();
    if (is_padding) continue;
    loss += sums.loss;
    if (sums.metrics.defined()) metrics += sums.metrics;
  }
  reducer_->start_rest();
  // The host waits for the device here, once a step: from here on the batch is free again.
  mine.loss = in_range("device wait", [&] { return loss.item<double>(); });
  metrics = metrics.cpu();
  mine.metrics.assign(metrics.const_data_ptr<double>(),
                      metrics.const_data_ptr<double>() + metric_count);
  // Too many for any budget when no replacement was good.
  mine.bad = int64_t(batch.bad.size()) + (batch.gave_up ? recipe_.loader.max_bad_samples + 1 : 0);
  mine.stop_requests = preemption_requested() ? 1 : 0;
  mine.unwritten = checkpoints_->is_saving() && !checkpoints_->is_written() ? 1 : 0;
  mine.decoded_frames = batch.cost.packets_decoded;
  return mine;
}

// Forward and backward of one micro-batch, whose tensors are on the CPU. Its sums, without a graph.
objective::LossSums Run::run_pass(const objective::MicroBatch& batch,
                                  const model::BlockRunner& runner, double weight,
                                  bool is_watched) {
  if (recorded_ && !is_watched) return recorded_->run(batch);
  objective::LossSums sums =
      in_range("forward", [&] { return forward(to_device(batch, device_), runner, is_watched); });
  try {
    const Range range("backward");
    sums.loss.backward(at::full_like(sums.loss, weight));
  } catch (const c10::Error& e) {
    if (!recipe_.debug.anomaly) throw;
    fail(ErrorKind::kData, "step {}: {}; {}", step_, e.what_without_backtrace(), look_at_samples());
  }
  sums.loss = sums.loss.detach();
  return sums;
}

objective::LossSums Run::forward(const objective::MicroBatch& batch,
                                 const model::BlockRunner& runner, bool is_watched) {
  const AutocastGuard autocast(use_autocast_, device_.type());
  if (!is_watched) return objective_->loss(batch, runner);
  const model::WatchingRunner watching(runner);
  const objective::LossSums sums = objective_->loss(batch, watching);
  for (const auto& [block, rms] : watching.seen())
    norms_.emplace_back(fmt::format("activation/{:02}.block{:02}", norms_.size(), block), rms);
  return sums;
}

// Waits for the sums over ranks. Returns their norm.
double Run::finish_gradients() {
  auto& parameters = objective_->parameters();
  reducer_->wait();
  at::Tensor squares;  // of each buffer, where each rank has a part of it
  if (blocks_) {
    squares = optim::squared_norms(optimizer_->owned());
    shards_->group().all_reduce(squares, "all_reduce of gradient norms")->wait();
    squares = squares.cpu();
  }
  if (watches_norms_)
    for (size_t i = 0; i < parameters.buffers().size(); ++i) {
      const auto& buffer = parameters.buffers()[i];
      norms_.emplace_back("grad/" + buffer.name, blocks_
                                                     ? std::sqrt(squares[int64_t(i)].item<double>())
                                                     : buffer.grad.norm().item<double>());
    }
  return blocks_ ? std::sqrt(squares.sum().item<double>()) : optim::gradient_norm(parameters);
}

// All ranks see the same numbers, so all skip or stop here, before the weights change.
bool Run::may_update(double loss, double grad_norm) {
  const StepGuard::Judgement judgement = guard_.judge(loss, grad_norm);
  if (judgement.verdict == StepGuard::Verdict::kGood) return true;
  const std::string look = look_at_samples();
  if (judgement.verdict == StepGuard::Verdict::kStop)
    throw AgreedStop(
        ErrorKind::kData,
        fmt::format(
            "step {}: {}; {}. To go on from the last checkpoint, lower optimizer.base_lr or "
            "optimizer.clip_grad with --allow-change=optimizer, or change guard.{}",
            step_, judgement.reason, look, judgement.key));
  const bool skips = judgement.verdict == StepGuard::Verdict::kSkip;
  if (is_first())
    log_->write_warning(step_, skips ? "skipped_step" : "spike",
                        fmt::format("{}; {}{}", judgement.reason,
                                    skips ? "the weights stay as they are; " : "", look));
  return !skips;
}

// Each rank's own share is about to replace all others' copies of it, right or wrong: copies are
// compared before that, in steps that a comparison or a checkpoint follows.
void Run::check_copies() {
  const auto follows = [&](int64_t every) { return every > 0 && (step_ + 1) % every == 0; };
  if (follows(recipe_.guard.replicas_every) || follows(recipe_.checkpoint.every) ||
      step_ + 1 == steps_ || stop_requests_ > 0)
    check_replicas(objective_->parameters(), step_, communicator_);
}

// Clips and steps.
void Run::update(double grad_norm) {
  const Range range("update");
  if (recipe_.optimizer.clip_grad > 0)  // as torch.nn.utils.clip_grad_norm_
    optimizer_->scale_gradients(std::min(1.0, recipe_.optimizer.clip_grad / (grad_norm + 1e-6)));
  optimizer_->step(optim::lr_at(schedule_, step_), recipe_.optimizer.weight_decay_at(step_, steps_),
                   step_ + 1);
  if (shards_ && holds_whole()) shards_->gather_values();
  // Averages are of whole weights, which then stay for the next forward.
  if (!holds_whole() && averages_) blocks_->gather_all();
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

// Who keeps the others waiting, said when a line of the log is due.
void Run::watch_ranks(StepFigures& figures, const std::vector<double>& rank_s) {
  if (!is_first() || rank_s.size() < 2) return;
  stragglers_.add(rank_s);
  if ((step_ + 1) % recipe_.log.every != 0 && step_ + 1 != steps_) return;
  const StragglerWatch::Straggler found = stragglers_.take();
  figures.metrics.emplace_back("slowest_rank", double(found.rank));
  figures.metrics.emplace_back("slowest_rank_s", found.slowest_s);
  figures.metrics.emplace_back("median_rank_s", found.median_s);
  if (!found.is_slow || (found.rank == last_slow_rank_ && step_ < last_straggler_ + 1000)) return;
  last_straggler_ = step_;
  last_slow_rank_ = found.rank;
  log_->write_warning(
      step_, "straggler",
      fmt::format(
          "rank {} ({}) takes {:.3f} s a step where the others take {:.3f} s: all wait for it",
          found.rank, hosts_[size_t(found.rank)], found.slowest_s, found.median_s));
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
  for (const std::string& text : communicator_.gather_texts(json_text(mine)))
    if (is_first()) log_->write_quarantine(ordered_json::parse(text));
  bad_samples_ += total;
  if (bad_samples_ > recipe_.loader.max_bad_samples)
    throw AgreedStop(
        ErrorKind::kTooMuchBad,
        fmt::format(
            "{} bad samples, more than loader.max_bad_samples = {}; see {}/quarantine.jsonl",
            bad_samples_, recipe_.loader.max_bad_samples, context_.run_folder));
}

// One bit of one weight, as a faulty memory would change it: shows that the check of replicas
// works.
void Run::inject_fault() {
  static bool is_done = false;  // once in a process: not again after going back
  if (is_done || recipe_.debug.flip_bit_rank != communicator_.rank() ||
      step_ != recipe_.debug.flip_bit_step)
    return;
  is_done = true;
  // Where weights are shared out, of what this rank keeps.
  at::Tensor weights = objective_->parameters().buffers().back().value;
  if (!holds_whole())
    for (const model::OwnedSlice& slice : optimizer_->owned())
      if (slice.value.numel() > 0) weights = slice.value;
  const at::Tensor value = weights.cpu();  // itself on the CPU
  static_cast<uint8_t*>(value.mutable_data_ptr())[value.nbytes() / 2] ^= 1;
  weights.copy_(value);
  spdlog::warn("step {}: debug.flip_bit_rank flipped a bit of a weight on rank {}", step_,
               communicator_.rank());
}

std::string Run::look_at_samples() const {
  return fmt::format("look at its samples with `keiko preview {} --step {}`", context_.run_folder,
                     step_);
}

}  // namespace keiko::train
