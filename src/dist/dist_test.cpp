// Collectives between real processes on this machine.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "dist/communicator.h"
#include "dist/ranks_for_tests.h"

namespace keiko::dist {
namespace {

TEST(Communicator, CollectivesGiveWhatTheirNamesSay) {
  for (int64_t world : {1, 2, 3})
    run_ranks(world, [world](Communicator& c) {
      for (auto type : {at::kFloat, at::kDouble, at::kLong}) {
        at::Tensor x = at::full({5}, c.rank() + 1, type);
        c.all_reduce(x)->wait();
        if (!x.eq(world * (world + 1) / 2).all().item<bool>()) return 2;
      }
      const at::Tensor gathered = c.all_gather(at::full({2, 3}, double(c.rank()), at::kDouble));
      if (gathered.sizes() != at::IntArrayRef({world, 2, 3})) return 3;
      for (int64_t r = 0; r < world; ++r)
        if (!gathered[r].eq(r).all().item<bool>()) return 4;
      if (c.broadcast_text(c.rank() == 0 ? "hello ranks" : "nothing") != "hello ranks") return 5;
      if (c.broadcast_text("") != "") return 6;
      const auto texts = c.gather_texts(std::string(size_t(c.rank()), 'x'));
      for (int64_t r = 0; r < world; ++r)
        if (texts[size_t(r)] != std::string(size_t(r), 'x')) return 7;
      // Rank r has world blocks of two numbers, all r + 1; each gets the sums of one of them.
      at::Tensor part = at::zeros({2});
      c.reduce_scatter(part, at::full({2 * world}, double(c.rank() + 1), at::kFloat))->wait();
      if (!part.eq(world * (world + 1) / 2).all().item<bool>()) return 8;
      at::Tensor whole = at::zeros({2 * world});
      c.all_gather_into(whole, at::full({2}, double(c.rank()), at::kFloat))->wait();
      for (int64_t r = 0; r < world; ++r)
        if (!whole.narrow(0, 2 * r, 2).eq(r).all().item<bool>()) return 9;
      c.barrier();
      return 0;
    });
}

TEST(Communicator, AGroupIsACommunicatorOfItsMembers) {
  run_ranks(4, [](Communicator& c) {
    const int64_t pair = c.rank() / 2;
    const auto group = c.group(fmt::format("pair{}", pair), {2 * pair, 2 * pair + 1});
    if (group->world_size() != 2 || group->rank() != c.rank() % 2) return 2;
    at::Tensor x = at::full({3}, double(c.rank()), at::kFloat);
    group->all_reduce(x)->wait();
    return x.eq(4 * pair + 1).all().item<bool>() ? 0 : 3;
  });
}

}  // namespace
}  // namespace keiko::dist
