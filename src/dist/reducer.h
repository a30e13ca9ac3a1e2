// How gradients become sums over ranks: what the training loop says of a step, whoever does it.

#pragma once
#include <string>

#include "config/binder.h"

namespace keiko::dist {

struct ReduceOptions {
  bool overlap = true;        // start during backward; else when it is over
  std::string wire = "fp32";  // numbers that travel: as they are, or rounded to "bf16" on the way
  double bucket_mb = 1;       // smallest bucket, MiB of gradients; a block is never cut

  void bind(config::Binder& b);
};

// Not thread-safe. All ranks use it alike: in each step begin_step(), then begin_pass(), forward,
// backward and end_pass() for every micro-batch, then start_rest() and wait().
class Reducer {
 public:
  virtual ~Reducer() = default;
  // Gradients are zero from here on.
  virtual void begin_step() = 0;
  // `is_last`: no other backward pass follows in this step.
  virtual void begin_pass(bool is_last) = 0;
  virtual void end_pass() {}
  // After the last backward: starts what has not started, such as parameters that nothing used.
  virtual void start_rest() = 0;
  // Returns when all gradients, or those that this rank keeps, are sums over all ranks. Throws
  // Error(kIo).
  virtual void wait() = 0;
  // Seconds that the last wait() held up the parameters' device; of a GPU, the last one of which
  // that is known. Does not wait for it.
  virtual double waited_s() = 0;
};

}  // namespace keiko::dist
