// Gradients that travel while backward runs are the sums that they are otherwise.

#include "dist/gradient_reducer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "dist/ranks_for_tests.h"
#include "model/runners.h"

namespace keiko::dist {
namespace {

// Five blocks of one square matrix and one vector each, block 2 run twice; and one that nothing
// uses.
struct Net {
  static constexpr int kBlocks = 5, kWidth = 24;
  model::Parameters parameters{at::kFloat};
  std::vector<at::Tensor> weights, biases;

  Net() {
    for (int i = 0; i <= kBlocks; ++i) {
      weights.push_back(
          parameters.declare({fmt::format("block{}.weight", i), {kWidth, kWidth}, i, true}));
      biases.push_back(parameters.declare(
          {fmt::format("block{}.bias", i), {kWidth}, i, false, model::Init::kZeros}));
    }
    parameters.allocate(1);
  }
  at::Tensor loss(const at::Tensor& input, const model::BlockRunner& runner) const {
    at::Tensor x = input;
    for (int i : {0, 1, 2, 2, 3, 4})
      x = runner.run(
          i,
          [w = weights[size_t(i)], b = biases[size_t(i)]](const at::Tensor& y) {
            return at::tanh(at::linear(y, w, b));
          },
          x);
    return x.sum();
  }
};

at::Tensor input_of(int64_t rank, int64_t step, int64_t micro) {
  return at::arange(3 * Net::kWidth, at::kFloat)
      .mul_(0.01)
      .add_(double(rank + 10 * step + 100 * micro))
      .sin_()
      .view({3, Net::kWidth});
}

// All gradients after `steps` steps of two micro-batches, the last step's.
at::Tensor train(Communicator& c, const ReduceOptions& options, const model::BlockRunner& runner,
                 int64_t steps, int64_t* started_early) {
  Net net;
  GradientReducer reducer(c, net.parameters, options);
  for (int64_t step = 0; step < steps; ++step) {
    net.parameters.zero_grad();
    for (int64_t micro = 0; micro < 2; ++micro) {
      const at::Tensor loss =
          net.loss(input_of(c.rank(), step, micro).requires_grad_(true), runner);
      if (micro == 1) reducer.arm();
      loss.backward();
    }
    reducer.reduce();
  }
  *started_early = reducer.started_early();
  std::vector<at::Tensor> grads;
  for (const auto& block : net.parameters.blocks()) grads.push_back(block.grad);
  return at::cat(grads);
}

TEST(GradientReducer, OverlappedSumsAreTheSameBits) {
  for (int64_t world : {1, 2, 3})
    run_ranks(world, [world](Communicator& c) {
      const model::BlockRunner straight;
      const model::CheckpointingRunner checkpointing;
      for (const model::BlockRunner* runner :
           std::vector<const model::BlockRunner*>{&straight, &checkpointing})
        for (double bucket_mb : {0.0, 0.005, 1.0}) {
          ReduceOptions options;
          options.bucket_mb = bucket_mb;
          options.overlap = false;
          int64_t early = 0;
          const at::Tensor after = train(c, options, *runner, 3, &early);
          if (early != 0) return 2;
          options.overlap = true;
          const at::Tensor during = train(c, options, *runner, 3, &early);
          if (!at::equal(after, during)) return 3;
          // Block 5 is never used: alone in its bucket, the first, it is sent when backward is
          // over, and the others wait for their turn.
          if ((early != 0) != (world > 1 && bucket_mb > 0)) return 4;
        }
      return 0;
    });
}

TEST(GradientReducer, SendsABucketAsSoonAsItIsComplete) {
  run_ranks(2, [](Communicator& c) {
    // Without the unused block: the head's bucket starts first, the embedding's last.
    model::Parameters p(at::kFloat);
    std::vector<at::Tensor> weights;
    for (int i = 0; i < 4; ++i)
      weights.push_back(p.declare({fmt::format("w{}", i), {8, 8}, i, true}));
    p.allocate(1);
    ReduceOptions options;
    options.bucket_mb = 0;
    GradientReducer reducer(c, p, options);
    if (reducer.buckets().size() != 4) return 2;
    for (int64_t step = 0; step < 3; ++step) {
      p.zero_grad();
      at::Tensor x = input_of(c.rank(), step, 0).narrow(1, 0, 8).contiguous();
      for (const at::Tensor& w : weights) x = at::linear(x, w);
      reducer.arm();
      x.sum().backward();
      reducer.reduce();
      // The first pass only counts.
      if (reducer.started_early() != (step == 0 ? 0 : 4)) return 3;
    }
    return 0;
  });
}

TEST(GradientReducer, SumsEveryBlockAndSaysSoInBf16WithinItsRounding) {
  for (int64_t world : {1, 2, 3})
    for (const char* wire : {"fp32", "bf16"})
      run_ranks(world, [world, wire](Communicator& c) {
        model::Parameters p(at::kFloat);
        const at::Tensor a = p.declare({"a.weight", {4, 2}, 0, true});
        const at::Tensor b = p.declare({"b.bias", {3}, 1, false});
        p.allocate(1);
        a.grad().fill_(double(c.rank() + 1));
        b.grad().fill_(0.3);
        ReduceOptions options;
        options.wire = wire;
        GradientReducer(c, p, options).reduce();
        if (!a.grad().eq(double(world * (world + 1) / 2)).all().item<bool>()) return 2;
        const double worst =
            (b.grad() - 0.3 * double(world)).abs().max().item<double>() / double(world);
        // One rank sends nothing, so nothing is rounded.
        const bool rounds = std::string(wire) == "bf16" && world > 1;
        return worst < (rounds ? 4e-3 : 1e-7) && (!rounds || worst > 1e-5) ? 0 : 3;
      });
}

TEST(GradientReducer, BucketsHoldEveryBlockOnceTheLastFirst) {
  Net net;
  for (int64_t bytes : {0, 3000, 5000, 1 << 20}) {
    size_t next = net.parameters.blocks().size();
    for (const Bucket& bucket : cut_buckets(net.parameters, bytes)) {
      EXPECT_EQ(bucket.last, next);
      EXPECT_LT(bucket.first, bucket.last);
      next = bucket.first;
    }
    EXPECT_EQ(next, 0u) << bytes;
    EXPECT_EQ(cut_buckets(net.parameters, bytes).back().last, 1u) << "block 0 has its own";
  }
}

}  // namespace
}  // namespace keiko::dist
