#include "dist/sharding.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>

namespace keiko::dist {
namespace {

// A block's all-gather under way: shares of its buffers, padded to the longest rank's.
struct Gathering {
  std::unique_ptr<Work> work;
  at::Tensor mine, all;
};

// Numbers of the largest share of a vector.
int64_t longest_share(int64_t numbers, int64_t world_size) {
  int64_t longest = 0;
  for (int64_t r = 0; r < world_size; ++r)
    longest = std::max(longest, model::share_of(numbers, r, world_size).count);
  return longest;
}

}  // namespace

void gather_shares(Communicator& communicator, model::Parameters& parameters) {
  const int64_t rank = communicator.rank(), world = communicator.world_size();
  if (world == 1) return;
  const c10::NoGradGuard no_grad;
  const auto& buffers = parameters.buffers();
  std::vector<Gathering> under_way;
  for (const model::BlockStorage& block : parameters.blocks()) {
    Gathering g;
    int64_t longest = 0;
    for (size_t i = block.first; i < block.last; ++i)
      longest += longest_share(buffers[i].value.numel(), world);
    g.mine = at::zeros({longest}, block.value.options());
    g.all = at::empty({world * longest}, block.value.options());
    int64_t at_number = 0;
    for (size_t i = block.first; i < block.last; ++i) {
      const model::Share share = model::share_of(buffers[i].value.numel(), rank, world);
      g.mine.narrow(0, at_number, share.count)
          .copy_(buffers[i].value.narrow(0, share.start, share.count));
      at_number += longest_share(buffers[i].value.numel(), world);
    }
    g.work = communicator.all_gather_into(g.all, g.mine,
                                          fmt::format("all_gather of block {}", block.block));
    under_way.push_back(std::move(g));
  }
  for (size_t b = 0; b < under_way.size(); ++b) {
    const model::BlockStorage& block = parameters.blocks()[b];
    Gathering g = std::move(under_way[b]);
    g.work->wait();
    const at::Tensor rows = g.all.view({world, -1});
    int64_t at_number = 0;
    for (size_t i = block.first; i < block.last; ++i) {
      const int64_t numbers = buffers[i].value.numel();
      for (int64_t r = 0; r < world; ++r) {
        if (r == rank) continue;
        const model::Share share = model::share_of(numbers, r, world);
        at::Tensor value = buffers[i].value.narrow(0, share.start, share.count);
        value.copy_(rows[r].narrow(0, at_number, share.count));
      }
      at_number += longest_share(numbers, world);
    }
  }
}

}  // namespace keiko::dist
