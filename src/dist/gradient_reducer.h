// Sums gradients over ranks while backward is still running.
//
// Gradients lie in one long vector for each block. Neighbouring blocks form buckets, and a bucket's
// all-reduce starts as soon as autograd has added the last gradient in it, so that the network
// works while earlier blocks are computed. Which buckets there are and the order in which they
// start follow from the model, the options and the world size: never from timing. (The idea is that
// of Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training".)

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dist/communicator.h"
#include "dist/reducer.h"
#include "model/parameters.h"

namespace keiko::dist {

// What travels together: the gradients of [first, last) of Parameters::blocks().
struct Bucket {
  size_t first = 0, last = 0;
  int64_t bytes = 0;
};

// Cuts the blocks into buckets of at least `bucket_bytes`; the last block comes first, as in
// backward. The first block, whose gradients come last and cannot hide behind anything, is a bucket
// of its own.
std::vector<Bucket> cut_buckets(const model::Parameters& parameters, int64_t bucket_bytes);

// Not thread-safe; the backward pass must run on the thread that calls arm(). All ranks use it
// alike.
class GradientReducer : public Reducer {
 public:
  // Keeps views of the gradients. `communicator` and `parameters` outlive it; parameters are
  // allocated.
  GradientReducer(Communicator& communicator, model::Parameters& parameters,
                  const ReduceOptions& options);
  ~GradientReducer() override;
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // The next backward pass is the last one of this step: what it completes is sent at once. The
  // passes before it send nothing. Without arm() everything is sent in start_rest().
  //
  // The first armed pass only counts how often each block's gradients are added to (several times
  // where masks or recomputation run a block more than once); later ones rely on the count. A pass
  // that adds to a bucket after it was sent throws Error(kInternal): a graph that grows during a
  // run needs reduce.overlap = false.
  void arm();
  // Starts the next bucket: for a backward pass that runs without autograd and knows it complete.
  void start_next() {
    if (communicator_.world_size() > 1) start(next_++);
  }
  void begin_step() override { parameters_.zero_grad(); }
  void begin_pass(bool is_last) override {
    if (is_last) arm();
  }
  void start_rest() override;
  void wait() override;
  // What a step calls that has nothing to hide reductions behind: start_rest(), then wait().
  void reduce() {
    start_rest();
    wait();
  }

  const std::vector<Bucket>& buckets() const { return buckets_; }
  // Buckets that started before backward was over, in the last step.
  int64_t started_early() const { return started_early_; }
  double waited_s() override { return clock_->last_s(); }

 private:
  struct Sending {
    std::unique_ptr<Work> work;
    at::Tensor staged;  // what travels when it is not the gradients themselves
  };
  void hook(size_t bucket);
  void start(size_t bucket);
  void add_hooks();

  class Hook;
  Communicator& communicator_;
  model::Parameters& parameters_;
  ReduceOptions options_;
  std::vector<Bucket> buckets_;
  std::vector<Sending> sending_;        // of each bucket
  std::vector<int64_t> seen_, wanted_;  // additions to each bucket in a pass; -1: not known yet
  std::vector<std::shared_ptr<void>> kept_;  // autograd's nodes that carry the hooks
  std::shared_ptr<GradientReducer*> self_;   // emptied when this dies before the hooks
  size_t next_ = 0;                          // bucket that starts next
  bool is_armed_ = false;
  int64_t started_early_ = 0;
  std::unique_ptr<WaitClock> clock_;  // of wait()
};

}  // namespace keiko::dist
