// The one all-reduce that carries every number of a step but the gradients, decisions included, so
// that all ranks agree on them.

#pragma once
#include <cstdint>
#include <vector>

#include "dist/communicator.h"

namespace keiko::train {

struct StepSums {
  double loss = 0;
  std::vector<double> metrics;  // the objective's own
  int64_t bad = 0;              // replaced samples
  int64_t stop_requests = 0;    // ranks asked to stop
  int64_t unwritten = 0;        // ranks whose checkpoint files are not on the disk yet
  int64_t decoded_frames = 0;
  // Seconds that each rank was busy with the step, its waiting for others left out.
  std::vector<double> rank_s;
};

// This rank's part in, the sum over all ranks out. Every rank gives as many metrics; `busy_s` is
// this rank's place in rank_s. Throws Error(kIo).
StepSums sum_over_ranks(const StepSums& mine, double busy_s, dist::Communicator& communicator);

// Which rank keeps the others waiting, and by how much, over the steps between two lines of the
// log.
class StragglerWatch {
 public:
  struct Straggler {
    int64_t rank = 0;
    double slowest_s = 0, median_s = 0;  // a step
    // Slow enough to be named: 1.5 times the median of ten steps or more.
    bool is_slow = false;
  };
  void add(const std::vector<double>& rank_s);
  // Of the steps added since the last call that saw ten or more: short stretches are added up.
  Straggler take();

 private:
  std::vector<double> sums_;
  int64_t steps_ = 0;
};

}  // namespace keiko::train
