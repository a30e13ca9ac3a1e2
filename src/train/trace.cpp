#include "train/trace.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/machine.h"

// As torch/csrc/profiler/kineto_shim.h has it, which needs Kineto's own headers.
namespace torch::autograd::profiler {
TORCH_API void addMetadataJson(const std::string& key, const std::string& value);
}

namespace keiko::train {
namespace {

namespace profiler = torch::autograd::profiler;
using nlohmann::ordered_json;

constexpr size_t kStepsBefore = 20;  // whose median the traced ones are compared with

// A whole number and nothing after it; nullopt: it is none, or negative.
std::optional<int64_t> read_step(std::string_view text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string words(const TraceSteps& steps) {
  return steps.first == steps.last ? fmt::format("steps={}", steps.first)
                                   : fmt::format("steps={}..{}", steps.first, steps.last);
}

}  // namespace

TraceSteps parse_trace(const std::string& text) {
  constexpr std::string_view kKey = "steps=";
  const std::string_view all = text;
  const auto refuse = [&](const std::string& what) {
    fail(ErrorKind::kUsage,
         "--trace {}: {}; give the first and the last step, counted from 0, as in --trace "
         "steps=10..12",
         text, what);
  };
  if (!all.starts_with(kKey)) refuse("does not begin with steps=");
  const std::string_view range = all.substr(kKey.size());
  const auto read = [&](std::string_view end) {
    const std::optional<int64_t> step = read_step(end);
    if (!step) refuse(fmt::format("\"{}\" is not the number of a step", end));
    return *step;
  };
  const size_t dots = range.find("..");
  TraceSteps steps;
  steps.first = read(range.substr(0, dots));
  steps.last = dots == std::string_view::npos ? steps.first : read(range.substr(dots + 2));
  if (steps.last < steps.first)
    refuse(fmt::format("step {} comes before step {}", steps.last, steps.first));
  return steps;
}

void quiet_profiler() { ::setenv("KINETO_LOG_LEVEL", "5", /*overwrite=*/0); }

Trace::Trace(Env* env, std::optional<TraceSteps> steps, const std::string& run_folder, int64_t rank,
             gpu::Accelerator* accelerator)
    : env_(env),
      steps_(steps),
      folder_(run_folder + "/traces"),
      rank_(rank),
      accelerator_(accelerator) {}

Trace::~Trace() {
  if (!is_on_) return;
  try {  // the run ends with an error, which has been told
    profiler::disableProfiler();
  } catch (const std::exception&) {
  }
}

void Trace::check(int64_t next, int64_t steps) {
  if (!steps_) return;
  if (steps_->last >= steps)
    fail(ErrorKind::kUsage,
         "--trace {}: the run has {} steps, counted from 0, and so no step {}; ask for steps up to "
         "{}",
         words(*steps_), steps, steps_->last, steps - 1);
  if (steps_->first >= next) return;
  // Whoever starts a stopped run again does so with the same command line.
  const bool is_over = steps_->last < next;
  if (rank_ == 0)
    spdlog::warn("--trace {}: the run goes on at step {}; {}", words(*steps_), next,
                 is_over ? "nothing is left to trace" : "steps before that are not traced");
  if (is_over)
    steps_.reset();
  else
    steps_->first = next;
}

void Trace::begin(int64_t step) {
  if (!steps_ || step != steps_->first) return;
  const double start = monotonic_s();
  using torch::profiler::impl::ActivityType;
  std::set<ActivityType> activities = {ActivityType::CPU};
  if (accelerator_) activities.insert(ActivityType::CUDA);
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO,
                                                     /*report_input_shapes=*/true);
  try {
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  } catch (const c10::Error& e) {
    spdlog::error(
        "--trace {}: torch's profiler does not start on rank {}: {}; the run goes on without",
        words(*steps_), rank_, e.what_without_backtrace());
    steps_.reset();
    return;
  }
  is_on_ = true;
  start_s_ = monotonic_s() - start;
}

std::optional<ordered_json> Trace::end(int64_t step, double step_s, bool is_last) {
  if (!steps_) return std::nullopt;
  if (!is_on_) {
    before_.push_back(step_s);
    if (before_.size() > kStepsBefore) before_.pop_front();
    return std::nullopt;
  }
  step_s_.push_back(step_s);
  if (step != steps_->last && !is_last) return std::nullopt;
  const TraceSteps steps = *steps_;
  steps_.reset();  // the last of it, whatever comes of it
  try {
    return write(steps.first, step);
  } catch (const std::exception& e) {
    const auto* torch = dynamic_cast<const c10::Error*>(&e);
    spdlog::error("--trace {}: rank {}'s trace is lost: {}", words(steps), rank_,
                  torch ? torch->what_without_backtrace() : e.what());
    return std::nullopt;
  }
}

ordered_json Trace::write(int64_t first, int64_t last) {
  const double start = monotonic_s();
  ordered_json said = {{"first_step", first}, {"last_step", last}, {"step_s", step_s_}};
  if (!before_.empty())
    said["step_s_before"] = median_of(std::vector<double>(before_.begin(), before_.end()));
  said["start_s"] = start_s_;
  // What it costs is written into the trace itself, as far as it is known before it is written.
  ordered_json inside = said;
  inside["rank"] = rank_;
  profiler::addMetadataJson("keiko", inside.dump());
  if (accelerator_) accelerator_->synchronize();  // kernels under way would not be in it
  is_on_ = false;
  const auto heard = profiler::disableProfiler();
  const std::string path = fmt::format("{}/steps-{}-{}-rank{}.json", folder_, first, last, rank_);
  env_->make_folder(folder_);
  // Kineto writes by itself, and says nothing where it cannot.
  const std::string part = path + ".tmp";
  env_->remove(part);
  heard->save(part);
  const FileStatus status = env_->status(part);
  if (!status.exists || status.size == 0)
    fail(ErrorKind::kIo, "{}: torch's profiler could not write it; is the disk full?", part);
  env_->rename(part, path);
  said["file"] = path;
  said["bytes"] = status.size;
  said["write_s"] = monotonic_s() - start;
  return said;
}

}  // namespace keiko::train
