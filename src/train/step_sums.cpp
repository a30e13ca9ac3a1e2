#include "train/step_sums.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace keiko::train {

StepSums sum_over_ranks(const StepSums& mine, double busy_s, dist::Communicator& communicator) {
  const size_t metrics = mine.metrics.size(), world = size_t(communicator.world_size());
  at::Tensor all = at::zeros({int64_t(5 + metrics + world)}, at::kDouble);
  double* v = all.data_ptr<double>();
  v[0] = mine.loss;
  v[1] = double(mine.bad);
  v[2] = double(mine.stop_requests);
  v[3] = double(mine.unwritten);
  v[4] = double(mine.decoded_frames);
  std::copy(mine.metrics.begin(), mine.metrics.end(), v + 5);
  v[5 + metrics + size_t(communicator.rank())] = busy_s;
  communicator.all_reduce(all, "all_reduce of the step's figures")->wait();
  StepSums sums;
  sums.loss = v[0];
  sums.bad = int64_t(v[1]);
  sums.stop_requests = int64_t(v[2]);
  sums.unwritten = int64_t(v[3]);
  sums.decoded_frames = int64_t(v[4]);
  sums.metrics.assign(v + 5, v + 5 + metrics);
  sums.rank_s.assign(v + 5 + metrics, v + 5 + metrics + world);
  return sums;
}

void StragglerWatch::add(const std::vector<double>& rank_s) {
  sums_.resize(rank_s.size(), 0);
  for (size_t r = 0; r < rank_s.size(); ++r) sums_[r] += rank_s[r];
  ++steps_;
}

StragglerWatch::Straggler StragglerWatch::take() {
  Straggler found;
  if (steps_ == 0) return found;
  std::vector<double> sorted = sums_;
  std::sort(sorted.begin(), sorted.end());
  found.rank = std::max_element(sums_.begin(), sums_.end()) - sums_.begin();
  found.slowest_s = sorted.back() / double(steps_);
  // Of two ranks the faster one: the slower cannot hide in a mean.
  found.median_s = sorted[(sorted.size() - 1) / 2] / double(steps_);
  found.is_slow = sums_.size() > 1 && steps_ >= 10 && found.slowest_s > 1.5 * found.median_s;
  if (steps_ >= 10) {
    sums_.clear();
    steps_ = 0;
  }
  return found;
}

}  // namespace keiko::train
