#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace keiko::optim {

double lr_at(const Schedule& s, int64_t step) {
  if (step < s.warmup_steps)
    return s.warmup_lr + (s.lr - s.warmup_lr) * double(step) / double(s.warmup_steps);
  const double share =
      double(step - s.warmup_steps) / double(std::max<int64_t>(1, s.steps - s.warmup_steps));
  return s.min_lr +
         (s.lr - s.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, share)));
}

}  // namespace keiko::optim
