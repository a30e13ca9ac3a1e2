// Forward and backward passes of micro-batches, recorded once and run again (train.cuda_graph).
//
// A recording reads its micro-batch, and what was drawn for it, from memory that stays, and adds to
// the gradients where they lie. So a pass is: draw, fill that memory, run the recording. What
// changes otherwise, shapes and the numbers that an objective decides on the host, makes another
// recording. The update stays outside: it is a few kernels, and the guard decides on the host
// whether it takes place.

#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu/recorder.h"
#include "model/runners.h"
#include "objective/objective.h"

namespace keiko::train {

// "" where a recipe that asks for recordings can have them, else why it cannot.
struct RecordingNeeds {
  bool has_recorder = false;  // false: computes on a CPU
  int64_t world_size = 1;
  bool sends_in_backward = false;    // several ranks, and reduce.overlap or shared gradients
  bool looks_for_anomalies = false;  // debug.anomaly
};
std::string why_not_recorded(const RecordingNeeds& needs);

// Used by the thread that trains.
class RecordedPasses {
 public:
  // A kind of pass runs so often before it is recorded (torch's documentation advises three), and
  // so many kinds get memory of their own: the whole micro-batches of a step and a last short one,
  // with and without some of the mixes.
  static constexpr int64_t kRunsBefore = 3;
  static constexpr size_t kMostKinds = 8;

  // `objective` and `recorder` outlive it; the parameters stay where they are. Every loss is
  // multiplied by `weight` before its backward pass. `recomputes`: activation checkpointing.
  RecordedPasses(objective::Objective& objective, gpu::Recorder& recorder, double weight,
                 bool use_autocast, bool recomputes);

  // Adds the gradients of `batch`, whose tensors are on the CPU or beside the parameters, and
  // returns its sums: valid until the next call, without a graph. The host does not wait, apart
  // from when it records. A pass that cannot be recorded, or comes in too many kinds, runs as it
  // is, and the log says why, once (rank 0's: other ranks log errors alone).
  objective::LossSums run(const objective::MicroBatch& batch);

  // Passes that ran from a recording, so far.
  int64_t replays() const { return replays_; }

 private:
  // Passes that do the same work on other values.
  struct Kind {
    objective::MicroBatch batch;  // tensors that stay, and nothing else
    objective::Draws draws;
    objective::LossSums sums;
    int64_t runs = 0;
    std::unique_ptr<gpu::Recording> recording;
  };
  // Null: there are too many kinds already.
  Kind* kind_of(const objective::MicroBatch& batch, const objective::Draws& draws);
  std::unique_ptr<Kind> make_kind(const objective::MicroBatch& batch,
                                  const objective::Draws& draws) const;
  void compute(Kind& kind) const;
  void record(Kind& kind);
  void give_up(const std::string& why);

  objective::Objective& objective_;
  gpu::Recorder& recorder_;
  double weight_;
  bool use_autocast_;
  model::BlockRunner straight_;
  model::CheckpointingRunner recomputing_;
  const model::BlockRunner& runner_;
  std::vector<std::unique_ptr<Kind>> kinds_;
  bool records_ = true;  // until it gave up
  int64_t replays_ = 0;
};

}  // namespace keiko::train
