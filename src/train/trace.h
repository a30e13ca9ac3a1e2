// A profiler's trace of some steps of a run: every operation and, on a GPU, every kernel, under the
// names of range.h.
//
// Kineto, which torch's own profiler is, listens while these steps run, and writes what it heard as
// JSON for Perfetto (https://ui.perfetto.dev) or chrome://tracing. Nothing that is computed
// changes.

#pragma once
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/env.h"
#include "gpu/accelerator.h"

namespace keiko::train {

// Both ends included, counted from 0: step s consumes positions [s * batch_size, (s + 1) *
// batch_size).
struct TraceSteps {
  int64_t first = 0, last = 0;
};

// Of "steps=10..12", or "steps=10" for one step. Throws Error(kUsage) quoting what is wrong.
TraceSteps parse_trace(const std::string& text);

// On the CPU Kineto would complain of the GPU that is not there, each time. To be called before
// there are other threads: it sets a variable of the environment, unless that is set already.
void quiet_profiler();

// Listens from one step to another and writes RUN/traces/steps-FIRST-LAST-rankR.json. Ranks have
// theirs each, and need not know of each other's. Used by the thread that runs the steps, whose
// operations and whose backward passes are what is seen: those of decoding and of writing
// checkpoints are not. Of a GPU all kernels and copies are seen, whoever launched them.
class Trace {
 public:
  // `steps`: nullopt is none, and then nothing here does anything. `accelerator`: what the run
  // computes on, not owned; null: the CPU. A trace that fails is lost (an error in the log says
  // so): no run ends for it.
  Trace(Env* env, std::optional<TraceSteps> steps, const std::string& run_folder, int64_t rank,
        gpu::Accelerator* accelerator);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  // Before the first step, `next`, of a run of `steps` steps. What was done in an earlier start is
  // not traced; a warning says so. Throws Error(kUsage) when steps are asked for that the run does
  // not have.
  void check(int64_t next, int64_t steps);
  // At the start of each step. Starts to listen where it is the first of those wanted.
  void begin(int64_t step);
  // Whether it listens.
  bool is_on() const { return is_on_; }
  // At the end of each step, everything that follows it included; `step_s` is what it took. After
  // the last step wanted, or the run's last (`is_last`), writes the file and returns what to say of
  // it, an event of metrics.jsonl: file, bytes, step_s of each step and the median of the steps
  // before, start_s and write_s, the seconds that listening and writing cost beside the steps.
  std::optional<nlohmann::ordered_json> end(int64_t step, double step_s, bool is_last);

 private:
  nlohmann::ordered_json write(int64_t first, int64_t last);

  Env* env_;
  std::optional<TraceSteps> steps_;
  std::string folder_;
  int64_t rank_;
  gpu::Accelerator* accelerator_;
  bool is_on_ = false;
  std::vector<double> step_s_;  // of the steps that it heard
  std::deque<double> before_;   // of the last steps before them
  double start_s_ = 0;
};

}  // namespace keiko::train
