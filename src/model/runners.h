// What can be put around the blocks of a model: activation checkpointing, and a look at their
// outputs.

#pragma once
#include <string>
#include <utility>
#include <vector>

#include "model/block_runner.h"

namespace keiko::model {

// Activation checkpointing (Chen et al. 2016): a block keeps its input alone and is computed again
// when its gradient is wanted. The same kernels run on the same numbers, under the same autocast:
// gradients are the same to the bit where a block runs once before backward(). Where it runs
// several times (V-JEPA's masks), its gradients are added one by one instead of together, which
// rounds otherwise. Memory for depth blocks falls to one block's activations and depth inputs; the
// cost is one more forward pass. A block whose input needs no gradient runs straight through.
class CheckpointingRunner : public BlockRunner {
 public:
  at::Tensor run(int index, const Forward& forward, const at::Tensor& input) const override;
};

// Notes the root mean square of every block's output, in the order they ran. Not thread-safe.
class WatchingRunner : public BlockRunner {
 public:
  // `inner` runs the blocks; not owned.
  explicit WatchingRunner(const BlockRunner& inner) : inner_(inner) {}
  at::Tensor run(int index, const Forward& forward, const at::Tensor& input) const override;
  // (number of the block, root mean square). Waits for the device; run() does not.
  std::vector<std::pair<int, double>> seen() const;

 private:
  const BlockRunner& inner_;
  mutable std::vector<std::pair<int, at::Tensor>> pending_;  // figures still on the device
};

}  // namespace keiko::model
