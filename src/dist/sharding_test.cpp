// Ranks that keep parts of a model train the same model as ranks that keep it whole.

#include "dist/sharding.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "dist/gradient_reducer.h"
#include "dist/ranks_for_tests.h"
#include "dist/sharded_blocks.h"
#include "model/runners.h"

namespace keiko::dist {
namespace {

TEST(Sharding, PartsOfAllRanksMakeUpEveryBufferInOrder) {
  for (int64_t ranks : {1, 2, 3, 4, 7, 16}) {
    model::Parameters p(at::kFloat);
    p.declare({"a", {50, 7}, 0, true});
    p.declare({"b", {2}, 0, false});  // fewer numbers than ranks: most have none of it
    p.declare({"c", {65}, 1, false});
    p.declare({"d", {1024}, 2, true});
    p.allocate(1);
    for (const model::BlockStorage& storage : p.blocks())
      for (size_t i = storage.first; i < storage.last; ++i) {
        int64_t next = 0;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const Part part = part_of(storage.value.numel(), rank, ranks);
          EXPECT_EQ(part.length % 16, 0);
          EXPECT_GE(part.padded(), storage.value.numel());
          EXPECT_LT(part.padded(), storage.value.numel() + 16 * ranks);
          const ViewShare mine = share_of_view(p.buffers()[i].value, part);
          if (mine.share.count == 0) continue;
          EXPECT_EQ(mine.share.start, next);
          EXPECT_EQ(mine.share.start % 16, 0);
          EXPECT_LE(mine.in_part + mine.share.count, part.length);
          next += mine.share.count;
        }
        EXPECT_EQ(next, p.buffers()[i].value.numel()) << p.buffers()[i].name << ", " << ranks;
      }
  }
}

TEST(Sharding, GroupsMustBeWhole) {
  check_shard_group(0, 5);
  check_shard_group(2, 4);
  EXPECT_THROW(check_shard_group(2, 5), Error);
}

TEST(Sharding, EveryRankGetsTheValuesOfAll) {
  for (const auto& [world, group] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 0}, {2, 0}, {3, 0}, {4, 0}, {4, 2}, {4, 1}})
    run_ranks(world, [group = group](Communicator& c) {
      model::Parameters p(at::kFloat);
      p.declare({"a", {50, 7}, 0, true});
      p.declare({"b", {2}, 0, false});
      p.declare({"c", {65}, 1, false});
      p.allocate(1);
      Shards shards(c, p, group);
      const c10::NoGradGuard no_grad;
      for (auto& buffer : p.buffers()) buffer.value.fill_(-1);
      for (model::OwnedSlice& slice : shards.owned_of_whole())
        slice.value.copy_(at::arange(slice.start, slice.start + slice.value.numel(), at::kFloat));
      shards.gather_values();
      for (const auto& buffer : p.buffers())
        if (!buffer.value.eq(at::arange(buffer.value.numel(), at::kFloat)).all().item<bool>())
          return 2;
      return 0;
    });
}

// Blocks 1 to 4 are read inside their runs, 2 of them twice; around them an embedding, a scale that
// belongs to block 4, a head, and a block that nothing uses.
struct Net {
  static constexpr int kBlocks = 4, kWidth = 24;
  model::Parameters parameters{at::kFloat};
  at::Tensor embedding, scale, head;
  std::vector<at::Tensor> weights, biases;

  Net() {
    embedding = parameters.declare({"embedding", {kWidth, kWidth}, 0, true});
    const size_t first = parameters.all().size();
    for (int i = 1; i <= kBlocks + 1; ++i) {
      weights.push_back(
          parameters.declare({fmt::format("block{}.weight", i), {kWidth, kWidth}, i, true}));
      biases.push_back(parameters.declare(
          {fmt::format("block{}.bias", i), {kWidth}, i, false, model::Init::kZeros}));
    }
    parameters.mark_inside(first);
    scale = parameters.declare({"scale", {kWidth}, kBlocks, false, model::Init::kOnes});
    head = parameters.declare({"head", {3, kWidth}, kBlocks + 2, true});
    parameters.allocate(1);
  }
  // `embeds` false: the first block's input needs no gradient.
  at::Tensor loss(const at::Tensor& input, const model::BlockRunner& runner, bool embeds) const {
    at::Tensor x = embeds ? at::linear(input, embedding) : input;
    for (int i : {1, 2, 3, 2, 4})
      x = runner.run(
          i,
          [w = weights[size_t(i - 1)], b = biases[size_t(i - 1)]](const at::Tensor& y) {
            return y + at::tanh(at::linear(y, w, b));
          },
          x);
    return at::tanh(at::linear(x * scale, head)).square().mean();
  }
};

at::Tensor input_of(int64_t rank, int64_t step, int64_t micro) {
  return at::arange(3 * Net::kWidth, at::kFloat)
      .mul_(0.01)
      .add_(double(rank + 10 * step + 100 * micro))
      .sin_()
      .view({3, Net::kWidth});
}

constexpr int64_t kSteps = 3;

// Gradient descent by hand on what this rank updates.
void descend(std::vector<model::OwnedSlice> slices) {
  const c10::NoGradGuard no_grad;
  for (model::OwnedSlice& slice : slices) slice.value.add_(slice.grad, -0.01);
}

void run_step(Reducer& reducer, const Net& net, const model::BlockRunner& runner, int64_t rank,
              int64_t step, bool embeds) {
  reducer.begin_step();
  for (int64_t micro = 0; micro < 2; ++micro) {
    reducer.begin_pass(micro == 1);
    net.loss(input_of(rank, step, micro), runner, embeds).backward();
    reducer.end_pass();
  }
  reducer.start_rest();
  reducer.wait();
}

std::vector<at::Tensor> values_of(const Net& net) {
  std::vector<at::Tensor> values;
  for (const auto& buffer : net.parameters.buffers()) values.push_back(buffer.value.clone());
  return values;
}

// The truth: every rank has all, and the sums of all.
std::vector<at::Tensor> train_whole(Communicator& c, bool embeds) {
  Net net;
  GradientReducer reducer(c, net.parameters, {});
  const model::BlockRunner straight;
  for (int64_t step = 0; step < kSteps; ++step) {
    run_step(reducer, net, straight, c.rank(), step, embeds);
    descend(net.parameters.whole_slices());
  }
  return values_of(net);
}

struct Case {
  int64_t world, group;
  bool shards_values, embeds, checkpoints, overlaps;
  std::string wire;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& [world, group] :
       std::vector<std::pair<int64_t, int64_t>>{{2, 0}, {3, 0}, {4, 2}, {2, 1}})
    for (bool shards_values : {false, true})
      for (bool embeds : {true, false})
        for (bool checkpoints : {false, true})
          cases.push_back({world, group, shards_values, embeds, checkpoints, true, "fp32"});
  for (bool shards_values : {false, true}) {
    cases.push_back({2, 0, shards_values, true, false, false, "fp32"});
    cases.push_back({2, 0, shards_values, true, false, true, "bf16"});
  }
  return cases;
}

int check(Communicator& c, const Case& k) {
  const std::vector<at::Tensor> wanted = train_whole(c, k.embeds);
  Net net;
  Shards shards(c, net.parameters, k.group);
  ReduceOptions options;
  options.overlap = k.overlaps;
  options.wire = k.wire;
  ShardedBlocks blocks(shards, net.parameters, options, k.shards_values);
  blocks.take_shares();
  const model::BlockRunner straight;
  const model::CheckpointingRunner checkpointing;
  const ShardingRunner runner(
      blocks, k.checkpoints ? static_cast<const model::BlockRunner&>(checkpointing) : straight);
  for (int64_t step = 0; step < kSteps; ++step) {
    run_step(blocks, net, runner, c.rank(), step, k.embeds);
    descend(blocks.owned());
    if (!k.shards_values) shards.gather_values();
    // Between steps the values are whole on demand, and a pass without a graph works as well.
    if (step == 1) {
      blocks.gather_all();
      blocks.drop_all();
      blocks.begin_step();
      blocks.begin_pass(true);
      const c10::NoGradGuard no_grad;
      if (!net.loss(input_of(0, 0, 0), runner, true).isfinite().item<bool>()) return 2;
      blocks.end_pass();
      blocks.start_rest();
      blocks.wait();
    }
  }
  blocks.gather_all();
  const std::vector<at::Tensor> found = values_of(net);
  // Of how far training moved the values.
  const double tolerance = k.wire == "bf16" ? 2e-2 : 1e-4;
  const std::vector<at::Tensor> first = values_of(Net());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double moved = (wanted[i] - first[i]).abs().max().item<double>();
    const double off = (found[i] - wanted[i]).abs().max().item<double>();
    if (off > tolerance * moved) {
      std::fprintf(stderr, "%s is off by %g, having moved by %g\n",
                   net.parameters.buffers()[i].name.c_str(), off, moved);
      return 3;
    }
  }
  return 0;
}

TEST(Sharding, PartsTrainAsTheWholeDoes) {
  for (const Case& k : all_cases()) {
    SCOPED_TRACE(fmt::format(
        "{} ranks in groups of {}, values shared {}, embedding {}, "
        "recomputed {}, overlap {}, {}",
        k.world, k.group, k.shards_values, k.embeds, k.checkpoints, k.overlaps, k.wire));
    run_ranks(k.world, [&](Communicator& c) { return check(c, k); });
  }
}

// A deep model of equal blocks, run once or twice (V-JEPA's masks): never more than three blocks'
// values and three blocks' gradients whole, whatever the depth.
TEST(Sharding, FewBlocksAreWholeAtOnce) {
  run_ranks(2, [](Communicator& c) {
    constexpr int kDepth = 12, kWidth = 32;
    model::Parameters p(at::kFloat);
    std::vector<at::Tensor> weights;
    for (int i = 1; i <= kDepth; ++i)
      weights.push_back(p.declare({fmt::format("w{}", i), {kWidth, kWidth}, i, true}));
    p.mark_inside(0);
    p.allocate(1);
    Shards shards(c, p, 0);
    ShardedBlocks blocks(shards, p, {}, true);
    blocks.take_shares();
    const model::BlockRunner straight;
    const ShardingRunner runner(blocks, straight);
    for (int64_t step = 0; step < 2; ++step) {
      blocks.begin_step();
      blocks.begin_pass(true);
      at::Tensor sum = at::zeros({});
      for (int64_t mask = 0; mask <= step; ++mask) {
        at::Tensor x = at::full({2, kWidth}, double(mask + 1)).requires_grad_(true);
        for (int i = 1; i <= kDepth; ++i)
          x = runner.run(
              i, [w = weights[size_t(i - 1)]](const at::Tensor& y) { return at::linear(y, w); }, x);
        sum = sum + x.sum();
      }
      sum.backward();
      blocks.end_pass();
      blocks.start_rest();
      blocks.wait();
      if (blocks.most_whole() > 6 * kWidth * kWidth) return 2;
      if (blocks.most_whole() < 2 * kWidth * kWidth) return 3;
      for (const model::BlockStorage& storage : p.blocks())
        if (storage.value.storage().nbytes() != 0 || storage.grad.storage().nbytes() != 0) return 4;
    }
    return 0;
  });
}

}  // namespace
}  // namespace keiko::dist
