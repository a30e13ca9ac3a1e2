// The learning rate of every step: linear warm-up, then a cosine to the minimum.

#pragma once
#include <cstdint>

namespace keiko::optim {

struct Schedule {
  double warmup_lr = 0;  // at step 0
  double lr = 1e-3;      // at the end of the warm-up
  double min_lr = 0;     // at `steps`
  int64_t warmup_steps = 0;
  int64_t steps = 1;  // of the whole run
};

// The learning rate of update `step`, counted from 0.
double lr_at(const Schedule& schedule, int64_t step);

}  // namespace keiko::optim
