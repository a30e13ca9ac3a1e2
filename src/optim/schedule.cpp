#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace keiko::optim {

double cosine_between(double first, double last, int64_t step, int64_t steps) {
  const double share = std::min(1.0, double(step) / double(std::max<int64_t>(1, steps)));
  return last + (first - last) * 0.5 * (1 + std::cos(std::numbers::pi * share));
}

double lr_at(const Schedule& s, int64_t step) {
  if (step < s.warmup_steps)
    return s.warmup_lr + (s.lr - s.warmup_lr) * double(step) / double(s.warmup_steps);
  const int64_t done = step - s.warmup_steps, all = s.steps - s.warmup_steps;
  switch (s.shape) {
    case Shape::kCosine:
      return cosine_between(s.lr, s.min_lr, done, all);
    case Shape::kLinear:
      return s.lr +
             (s.min_lr - s.lr) * std::min(1.0, double(done) / double(std::max<int64_t>(1, all)));
    case Shape::kConstant:
      break;
  }
  return s.lr;
}

}  // namespace keiko::optim
