// The learning rate and weight decay of every step: a linear warm-up, then a cosine, a straight
// line or nothing.

#pragma once
#include <cstdint>

namespace keiko::optim {

enum class Shape {
  kCosine,    // half a cosine down to min_lr
  kConstant,  // stays
  kLinear,    // a straight line to min_lr
};

struct Schedule {
  double warmup_lr = 0;  // at step 0
  double lr = 1e-3;      // at the end of the warm-up
  double min_lr = 0;     // at `steps`
  int64_t warmup_steps = 0;
  int64_t steps = 1;  // of the whole run
  Shape shape = Shape::kCosine;
};

// The learning rate of update `step`, counted from 0.
double lr_at(const Schedule& schedule, int64_t step);

// From `first` to `last` in half a cosine over `steps` (V-JEPA 1's weight decay), at `step`.
double cosine_between(double first, double last, int64_t step, int64_t steps);

}  // namespace keiko::optim
