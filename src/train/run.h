// A run in progress: everything that train() sets up, and one method for each thing that a step
// does.
//
// run_start.cpp sets it up and brings it back from a checkpoint, run_step.cpp does what one step
// does, trainer.cpp is the loop around it. No other file includes this one.

#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dist/sharded_blocks.h"
#include "model/block_runner.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/recorded_passes.h"
#include "train/run_log.h"
#include "train/step_sums.h"
#include "train/trace.h"
#include "train/trainer.h"

namespace keiko::train {

class Run {
 public:
  // Opens the data, makes the model, enters the run folder and resumes. Throws as train() does.
  Run(const Recipe& recipe, const TrainContext& context);
  TrainResult go();
  // Makes a save that is under way count, if it still can. After an AgreedStop, on all ranks.
  void finish_save();

 private:
  // run_start.cpp
  void open_data();
  void make_model();
  void share_out();
  void prepare_recording();
  void enter_folder();
  void resume();
  void calibrate();
  // run_step.cpp
  StepFigures step(data::Loader& loader);
  StepSums run_micro_batches(data::Batch& batch);
  objective::LossSums run_pass(const objective::MicroBatch& batch, const model::BlockRunner& runner,
                               double weight, bool is_watched);
  objective::LossSums forward(const objective::MicroBatch& batch, const model::BlockRunner& runner,
                              bool is_watched);
  double finish_gradients();
  void check_copies();
  bool may_update(double loss, double grad_norm);
  void update(double grad_norm);
  void watch(const StepFigures& figures);
  void watch_ranks(StepFigures& figures, const std::vector<double>& rank_s);
  void record_samples(const data::Batch& batch);
  void quarantine(const data::Batch& batch, int64_t total);
  void inject_fault();
  // trainer.cpp
  void finish_step();
  void save(bool wait, std::optional<uint64_t> weights_hash);
  void commit();
  void say_committed();
  void evaluate_now();
  media::MakeBuffer make_buffer() const;  // of the training loader's slots

  // Empty: none.
  std::string gpu_name() const { return context_.accelerator ? context_.accelerator->name() : ""; }
  // "look at its samples with `keiko preview ...`"
  std::string look_at_samples() const;
  bool is_first() const { return communicator_.rank() == 0; }
  // Steps that come round every `every` steps; never for 0.
  bool is_due(int64_t every) const { return every > 0 && step_ % every == 0; }
  // Whether every rank holds all weights between steps.
  bool holds_whole() const { return !blocks_ || !blocks_->shards_values(); }

  const Recipe& recipe_;
  const TrainContext& context_;
  Env* env_;
  dist::Communicator& communicator_;
  at::Device device_;  // of parameters and batches
  ThreadShare threads_;
  data::Dataset dataset_;
  std::unique_ptr<data::Dataset> eval_dataset_;
  std::unique_ptr<objective::Objective> objective_;
  std::unique_ptr<optim::AdamW> optimizer_;
  std::unique_ptr<dist::Shards> shards_;  // null: nothing is shared out
  std::unique_ptr<dist::Reducer> reducer_;
  dist::ShardedBlocks* blocks_ = nullptr;     // the reducer, when gradients are shared out
  std::unique_ptr<RecordedPasses> recorded_;  // null: passes run as they are
  optim::Schedule schedule_;
  bool use_autocast_ = false;
  bool averages_ = false;  // the objective keeps moving averages of its weights
  int64_t steps_ = 0;
  int64_t step_ = 0;  // completed updates
  int64_t bad_samples_ = 0;
  StepGuard guard_;
  bool watches_norms_ = false;  // in this step
  int64_t last_alarm_ = -1;     // step; -1: none is on
  std::vector<std::pair<std::string, double>> norms_;
  StragglerWatch stragglers_;
  std::vector<std::string> hosts_;                     // of all ranks
  int64_t last_straggler_ = -1, last_slow_rank_ = -1;  // step and rank of the last warning
  PhaseFile phases_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  std::unique_ptr<RunLog> log_;
  Trace trace_;
  nlohmann::json restored_state_;
  int64_t stop_requests_ = 0, unwritten_ = 0;  // over all ranks, in the last step
  TrainResult result_;
  std::unique_ptr<data::Loader> loader_;  // goes first, and only once errors are told
};

}  // namespace keiko::train
