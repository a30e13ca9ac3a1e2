#include "dist/gradient_reducer.h"

#include <vector>

namespace keiko::dist {

void reduce_gradients(Communicator& communicator, model::Parameters& parameters) {
  if (communicator.world_size() == 1) return;
  std::vector<std::unique_ptr<Work>> works;
  // Backward fills the last blocks first; their buffers start first.
  auto& buffers = parameters.buffers();
  for (auto buffer = buffers.rbegin(); buffer != buffers.rend(); ++buffer)
    works.push_back(communicator.all_reduce(buffer->grad));
  for (auto& work : works) work->wait();
}

}  // namespace keiko::dist
