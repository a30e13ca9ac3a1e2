// How the blocks of a model are run: straight through, or with something around each.
//
// C++ modules have no hooks. Models hand every block to a BlockRunner instead, so that activation
// checkpointing and parameter sharding can be added without a model knowing.

#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace keiko::model {

class BlockRunner {
 public:
  using Forward = std::function<at::Tensor(const at::Tensor&)>;
  virtual ~BlockRunner() = default;
  // Runs block `index` (its number in Parameters' buffers) on `input` and returns its output.
  // `forward` may be kept and called again in the backward pass: it must own what it captures,
  // apart from the model.
  virtual at::Tensor run(int index, const Forward& forward, const at::Tensor& input) const {
    (void)index;
    return forward(input);
  }
};

}  // namespace keiko::model
