// What every objective must keep, and what this one promises.

#include "my_objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "config/tree.h"

namespace {

using namespace keiko;
using objective::MicroBatch;

constexpr int64_t kFrames = 4, kSize = 16;

std::unique_ptr<objective::Objective> make(const std::string& keys = "",
                                           int64_t num_frames = kFrames) {
  ArrowOfTimeOptions options;
  config::read_options(
      config::parse_yaml(
          "{model: custom, width: 24, depth: 2, heads: 2, patch_size: 8" + keys + "}", "test"),
      options);
  objective::ObjectiveContext context;
  context.num_frames = num_frames;
  context.size = kSize;
  context.seed = 3;
  context.dtype = at::kDouble;
  return options.make(context);
}

MicroBatch clips(int64_t n) {
  MicroBatch batch;
  // Any pixels do that differ from frame to frame.
  batch.video = at::arange(n * 3 * kFrames * kSize * kSize, at::kLong)
                    .mul(7919)
                    .remainder(65537)
                    .remainder(256)
                    .to(at::kByte)
                    .view({n, 3, kFrames, kSize, kSize});
  batch.label = at::full({n}, -1, at::kLong);
  for (int64_t i = 0; i < n; ++i) batch.positions.push_back(100 + i);
  batch.step = 0;
  return batch;
}

MicroBatch cut(const MicroBatch& batch, int64_t first, int64_t last) {
  MicroBatch part = batch;
  part.video = batch.video.slice(0, first, last);
  part.label = batch.label.slice(0, first, last);
  part.positions.assign(batch.positions.begin() + first, batch.positions.begin() + last);
  return part;
}

// Loss, metrics and gradients, summed over the parts of `batch` between neighbouring `cuts`.
std::vector<at::Tensor> sums(objective::Objective& objective, const MicroBatch& batch,
                             const std::vector<int64_t>& cuts) {
  objective.parameters().zero_grad();
  std::vector<at::Tensor> all(2, at::zeros({1}, at::kDouble));
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const auto part = objective.loss(cut(batch, cuts[i], cuts[i + 1]), model::BlockRunner());
    part.loss.backward();
    all[0] = all[0] + part.loss.detach();
    all[1] = all[1] + part.metrics;
  }
  for (const auto& buffer : objective.parameters().buffers()) all.push_back(buffer.grad.clone());
  return all;
}

// The head starts near zero, where gradients of the encoder are too small to be compared.
void enlarge_head(objective::Objective& objective) {
  for (const auto& parameter : objective.parameters().all())
    if (parameter.spec.name == "classifier.weight") parameter.value.detach().mul_(1e4);
}

TEST(ArrowOfTime, LossesAndGradientsAddUpOverAnyCutOfTheBatch) {
  const MicroBatch batch = clips(6);
  for (const std::string change : {"reverse", "swap_halves"}) {
    const auto objective = make(", change: " + change);
    enlarge_head(*objective);
    const auto whole = sums(*objective, batch, {0, 6});
    double largest_gradient = 0;
    for (size_t i = 2; i < whole.size(); ++i)
      largest_gradient = std::max(largest_gradient, whole[i].abs().max().item<double>());
    ASSERT_GT(largest_gradient, 1e-3) << "nothing to compare";
    for (const std::vector<int64_t>& cuts : std::vector<std::vector<int64_t>>{
             {0, 1, 6}, {0, 2, 4, 6}, {0, 3, 6}, {0, 1, 2, 3, 4, 5, 6}}) {
      const auto parts = sums(*objective, batch, cuts);
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_LT((whole[i] - parts[i]).abs().max().item<double>(), 1e-12)
            << change << ", cut into " << cuts.size() - 1 << ", quantity " << i;
    }
  }
}

TEST(ArrowOfTime, AClipIsShownTheSameInEveryBatchAndRun) {
  const auto changed = [](const MicroBatch& batch) { return make()->fields(batch)[0].second; };
  const MicroBatch batch = clips(6);
  const at::Tensor whole = changed(batch);
  EXPECT_TRUE(at::equal(changed(cut(batch, 2, 5)), whole.slice(0, 2, 5)));
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_EQ(whole[i].item<int64_t>() == 1, is_changed(3, batch.positions[size_t(i)]));
}

TEST(ArrowOfTime, HalfOfTheClipsAreChanged) {
  int64_t count = 0, equal = 0;
  for (int64_t position = 0; position < 10000; ++position) {
    count += is_changed(3, position);
    equal += is_changed(3, position) == is_changed(4, position);
  }
  EXPECT_NEAR(count, 5000, 250);  // five standard deviations
  EXPECT_NEAR(equal, 5000, 250) << "another seed must draw anew";
}

TEST(ArrowOfTime, AChangedClipRunsBackwardsOrInSwappedHalves) {
  const MicroBatch batch = clips(6);
  for (const std::string change : {"reverse", "swap_halves"}) {
    const std::vector<int64_t> order =
        change == "reverse" ? std::vector<int64_t>{3, 2, 1, 0} : std::vector<int64_t>{2, 3, 0, 1};
    const at::Tensor pictures = make(", change: " + change)->picture(batch);
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t t = 0; t < kFrames; ++t) {
        const bool is = is_changed(3, batch.positions[size_t(i)]);
        EXPECT_TRUE(at::equal(pictures[i][1].select(1, t),
                              batch.video[i].select(1, is ? order[size_t(t)] : t)))
            << change << ", clip " << i << ", frame " << t;
      }
  }
}

// Both ways look alike then: whatever the network says is right once and wrong once.
TEST(ArrowOfTime, NobodyCanTellWhenNothingMoves) {
  MicroBatch batch = clips(5);
  batch.video = batch.video.slice(2, 0, 1).expand(batch.video.sizes()).contiguous();
  for (const bool is_fresh : {true, false}) {
    const auto objective = make();
    if (!is_fresh) enlarge_head(*objective);
    const auto summary = objective->summarize(objective->evaluate(batch));
    EXPECT_EQ(summary["accuracy"].get<double>(), 0.5);
    EXPECT_EQ(summary["accuracy_standard_error"].get<double>(), 0);
    if (is_fresh)
      EXPECT_NEAR(summary["loss"].get<double>(), std::log(2.0), 1e-3);
    else
      EXPECT_GT(summary["loss"].get<double>(), std::log(2.0) + 1e-3) << "it is sure, for nothing";
  }
}

TEST(ArrowOfTime, StartsFromAnEncoderAndRefusesWhatHasNone) {
  const auto source = make(), target = make();
  for (const auto& parameter : source->parameters().all()) parameter.value.detach().fill_(0.25);
  objective::Weights weights{source->weights(), {}};
  target->start_from(weights);
  for (const auto& [name, tensor] : target->weights())
    EXPECT_EQ(tensor.eq(0.25).all().item<bool>(), name.rfind("videomae.", 0) == 0) << name;
  weights.model.erase(weights.model.begin() + int64_t(weights.model.size()) - 1);  // of the encoder
  EXPECT_THROW(target->start_from(weights), Error);
}

TEST(ArrowOfTime, HalvesOfAnOddNumberOfFramesAreRefused) {
  EXPECT_THROW(make(", change: swap_halves, tubelet_size: 1", 5), Error);
  EXPECT_NO_THROW(make(", change: reverse, tubelet_size: 1", 5));
}

}  // namespace
