#include "train/run_log.h"

#include <chrono>

#include "base/log.h"
#include "base/machine.h"
#include "report/run_page.h"

namespace keiko::train {
namespace {

using nlohmann::ordered_json;

double unix_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

RunLog::RunLog(Env* env, const std::string& folder, int64_t rank, int64_t world_size, bool samples,
               const nlohmann::json& state)
    : env_(env), folder_(folder) {
  if (state.is_object() && state.contains("samples_lengths")) {
    samples_lengths_ = state["samples_lengths"];
    if (rank < int64_t(samples_lengths_.size())) samples_length_ = samples_lengths_[size_t(rank)];
  }
  if (samples) {
    const int64_t length = samples_length_;
    samples_ = std::make_unique<report::JsonLines>(
        env, fmt::format("{}/samples-{}.jsonl", folder, rank), length);
  }
  // A checkpoint records the lengths of these files: their names must survive a power cut too.
  if (rank != 0) {
    if (samples) env->sync_folder(folder);
    return;
  }
  cut_samples_of_absent_ranks(world_size);
  auto length_of = [&](const char* key) {
    return state.is_object() ? state.value(key, int64_t{0}) : int64_t{0};
  };
  metrics_ = std::make_unique<report::JsonLines>(env, folder + "/metrics.jsonl",
                                                 length_of("metrics_length"));
  quarantine_ = std::make_unique<report::JsonLines>(env, folder + "/quarantine.jsonl",
                                                    length_of("quarantine_length"));
  tensorboard_ = std::make_unique<report::TensorBoardWriter>(env, folder + "/tensorboard");
  env->sync_folder(folder);
}

// More ranks may have gone on for some steps after the checkpoint. These steps are taken again, by
// fewer: a sample must not be listed twice.
void RunLog::cut_samples_of_absent_ranks(int64_t world_size) {
  const std::string prefix = "samples-", suffix = ".jsonl";
  for (const std::string& name : env_->list(folder_)) {
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) continue;
    const std::string number =
        name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    if (number.empty() || number.size() > 9 ||
        number.find_first_not_of("0123456789") != std::string::npos)
      continue;
    const int64_t rank = std::stoll(number);
    if (rank < world_size) continue;
    const int64_t length =
        rank < int64_t(samples_lengths_.size()) ? samples_lengths_[size_t(rank)].get<int64_t>() : 0;
    const std::string path = folder_ + "/" + name;
    if (env_->status(path).size > length) env_->append_to(path, length);
  }
}

void RunLog::start_clock(int64_t first_step, int64_t steps) {
  steps_ = steps;
  run_first_step_ = first_step;
  run_started_s_ = clock_s_ = monotonic_s();
  progress_ = std::make_unique<report::Progress>("train", 1e9);
}

void RunLog::write_step(int64_t step, const StepFigures& f, int64_t every) {
  sum_.data_wait_s += f.data_wait_s;
  sum_.clips += f.clips;
  sum_.frames += f.frames;
  sum_.decoded_frames += f.decoded_frames;
  sum_.flops += f.flops;
  ++summed_;
  const double now = monotonic_s();
  const double elapsed = std::max(1e-9, now - clock_s_);
  const double clips_per_s = double(sum_.clips) / elapsed;
  const double wait_share = sum_.data_wait_s / elapsed;
  const double left_s =
      (now - run_started_s_) / double(step - run_first_step_) * double(steps_ - step);
  const std::string note = fmt::format("loss {:.4f}  {:.1f} clips/s  data wait {:.1f}%", f.loss,
                                       clips_per_s, 100 * wait_share);
  if (report::Progress::on_terminal()) progress_->update(step, steps_, note);
  if (step % every != 0 && step != steps_) return;

  const std::string line = fmt::format(
      "step {:>6}  loss {:.4f}  lr {:.2e}  |g| {:.3g}  {:.1f} clips/s  data wait {:.1f}%  "
      "ETA {}",
      step, f.loss, f.lr, f.grad_norm, clips_per_s, 100 * wait_share,
      report::duration_text(left_s));
  if (report::Progress::on_terminal())
    log_quietly(line);
  else
    spdlog::info("{}", line);
  ordered_json json = {{"kind", "train"},
                       {"step", step},
                       {"time", unix_time_s()},
                       {"position", f.position},
                       {"epoch", f.epoch},
                       {"loss", f.loss},
                       {"lr", f.lr},
                       {"grad_norm", f.grad_norm},
                       {"step_s", elapsed / double(summed_)},
                       {"data_wait_s", sum_.data_wait_s / double(summed_)},
                       {"reduce_wait_s", f.reduce_wait_s},
                       {"update_s", f.update_s},
                       {"clips_per_s", clips_per_s},
                       {"frames_per_s", double(sum_.frames) / elapsed},
                       {"decoded_frames_per_s", double(sum_.decoded_frames) / elapsed},
                       {"memory_bytes", resident_bytes()},
                       {"tflops", sum_.flops / elapsed / 1e12}};
  std::vector<std::pair<std::string, double>> scalars = {{"train/loss", f.loss},
                                                         {"train/lr", f.lr},
                                                         {"train/grad_norm", f.grad_norm},
                                                         {"train/clips_per_s", clips_per_s},
                                                         {"train/data_wait_share", wait_share}};
  for (const auto& [name, value] : f.metrics) {
    json[name] = value;
    scalars.emplace_back("train/" + name, value);
  }
  metrics_->write(json);
  tensorboard_->write(step, scalars);
  sum_ = {};
  summed_ = 0;
  clock_s_ = now;
}

void RunLog::write_evaluation(int64_t step, const ordered_json& summary, double seconds) {
  ordered_json json = {
      {"kind", "eval"}, {"step", step}, {"time", unix_time_s()}, {"eval_s", seconds}};
  std::vector<std::pair<std::string, double>> scalars;
  std::string text;
  for (const auto& [key, value] : summary.items()) {
    json[key] = value;
    if (!value.is_number()) continue;
    scalars.emplace_back("eval/" + key, value.get<double>());
    if (key != "clips") text += fmt::format("  {} {:.4f}", key, value.get<double>());
  }
  metrics_->write(json);
  tensorboard_->write(step, scalars);
  if (progress_) progress_->finish("");
  spdlog::info("eval {:>6}{}", step, text);
  clock_s_ += seconds;  // evaluation is not training: leave it out of the rates
}

void RunLog::write_norms(int64_t step, const std::vector<std::pair<std::string, double>>& norms) {
  ordered_json json = {
      {"kind", "event"}, {"event", "norms"}, {"step", step}, {"time", unix_time_s()}};
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : norms) {
    json[name] = value;
    scalars.emplace_back("norms/" + name, value);
  }
  metrics_->write(json);
  tensorboard_->write(step, scalars);
}

void RunLog::write_trace(int64_t step, const ordered_json& trace) {
  ordered_json json = {
      {"kind", "event"}, {"event", "trace"}, {"step", step}, {"time", unix_time_s()}};
  double traced_s = 0;
  for (const auto& s : trace["step_s"])
    traced_s += s.get<double>() / double(trace["step_s"].size());
  for (const auto& [key, value] : trace.items()) json[key] = value;
  metrics_->write(json);
  if (progress_) progress_->finish("");
  const std::string before =
      trace.contains("step_s_before")
          ? fmt::format(", {:.3f} s in those before", trace["step_s_before"].get<double>())
          : "";
  const double aside = trace["start_s"].get<double>() + trace["write_s"].get<double>();
  spdlog::info(
      "traced steps {} to {}: {} ({}); {:.3f} s a step while traced{}, {:.1f} s to start "
      "and to write; open it at https://ui.perfetto.dev",
      trace["first_step"].get<int64_t>(), trace["last_step"].get<int64_t>(),
      trace["file"].get<std::string>(), report::bytes_text(trace["bytes"].get<double>()), traced_s,
      before, aside);
  clock_s_ += aside;  // not training: leave it out of the rates
}

void RunLog::write_warning(int64_t step, const std::string& event, const std::string& text) {
  metrics_->write({{"kind", "event"},
                   {"event", event},
                   {"step", step},
                   {"time", unix_time_s()},
                   {"message", text}});
  if (report::Progress::on_terminal()) progress_->finish("");
  spdlog::warn("step {}: {}", step, text);
}

void RunLog::write_sample(int64_t step, const data::ClipPlan& plan) {
  ordered_json line = {{"step", step},
                       {"position", plan.position},
                       {"data_set", plan.data_set},
                       {"item", plan.item},
                       {"window", plan.window},
                       {"attempt", plan.attempt},
                       {"frames", plan.frames},
                       {"crop", {plan.crop.x, plan.crop.y, plan.crop.width, plan.crop.height}},
                       {"flip", plan.flip},
                       {"label", plan.label}};
  if (!plan.augment.is_empty()) line["augment"] = data::describe(plan.augment);
  samples_->write(line);
}

void RunLog::write_quarantine(const ordered_json& bad) {
  for (const auto& line : bad) {
    spdlog::warn("bad sample at position {}: {}; replaced", line["position"].get<int64_t>(),
                 line["reason"].get<std::string>());
    quarantine_->write(line);
  }
}

ordered_json RunLog::sync_and_describe() {
  metrics_->sync();
  quarantine_->sync();
  return {{"metrics_length", metrics_->length()},
          {"quarantine_length", quarantine_->length()},
          {"samples_lengths", samples_lengths_}};
}

int64_t RunLog::sync_samples() {
  if (!samples_) return samples_length_;  // as an earlier start left it
  samples_->sync();
  return samples_->length();
}

void RunLog::finish() {
  if (progress_) progress_->finish("");
  report::write_run_page(env_, folder_);
}

}  // namespace keiko::train
