// What a run writes while it trains: log lines, metrics.jsonl, TensorBoard events, samples, the
// page.

#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/clip_plan.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "report/tensorboard.h"

namespace keiko::train {

// One step as it is logged. Rates and counts are over all ranks.
struct StepFigures {
  double loss = 0, lr = 0, grad_norm = 0;
  double step_s = 0, data_wait_s = 0, reduce_wait_s = 0, update_s = 0;  // of rank 0
  int64_t position = 0, clips = 0, frames = 0, decoded_frames = 0;
  double epoch = 0, flops = 0;
  std::vector<std::pair<std::string, double>> metrics;  // the objective's own
};

// Not thread-safe. Rank 0 writes everything; other ranks only their samples file.
class RunLog {
 public:
  // `state` is a checkpoint's state.json (or null): files are cut back to the lengths it records,
  // those of ranks from `world_size` on by rank 0.
  RunLog(Env* env, const std::string& folder, int64_t rank, int64_t world_size, bool samples,
         const nlohmann::json& state);

  void start_clock(int64_t first_step, int64_t steps);
  // Every step goes into the averages; a line is written every `every` steps and at the last.
  void write_step(int64_t step, const StepFigures& figures, int64_t every);
  void write_evaluation(int64_t step, const nlohmann::ordered_json& summary, double seconds);
  // A line of kind "event" with the norms by name ("grad/block03.decay", "activation/block03").
  void write_norms(int64_t step, const std::vector<std::pair<std::string, double>>& norms);
  // A line of kind "event" with what Trace::end() gave, and a line of the log.
  void write_trace(int64_t step, const nlohmann::ordered_json& trace);
  // A line of kind "event", and a warning on the terminal and in log.txt.
  void write_warning(int64_t step, const std::string& event, const std::string& text);
  void write_sample(int64_t step, const data::ClipPlan& plan);
  // `bad`: an array of objects, as quarantine.jsonl holds them.
  void write_quarantine(const nlohmann::ordered_json& bad);
  // Makes what was written durable and returns the lengths that a checkpoint records.
  nlohmann::ordered_json sync_and_describe();
  int64_t sync_samples();
  // Ends the progress bar and writes report.html.
  void finish();

 private:
  void cut_samples_of_absent_ranks(int64_t world_size);

  Env* env_;
  std::string folder_;
  std::unique_ptr<report::JsonLines> metrics_, quarantine_, samples_;
  std::unique_ptr<report::TensorBoardWriter> tensorboard_;
  std::unique_ptr<report::Progress> progress_;
  nlohmann::json samples_lengths_ = nlohmann::json::array();  // of all ranks, as restored
  int64_t samples_length_ = 0;                                // of this rank, as restored
  int64_t steps_ = 0;
  double clock_s_ = 0;  // when the present stretch began
  double run_started_s_ = 0;
  int64_t run_first_step_ = 0;
  StepFigures sum_;  // of the stretch since the last line
  int64_t summed_ = 0;
};

}  // namespace keiko::train
