#include "objective/objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "config/tree.h"
#include "objective/classification.h"
#include "objective/masked_autoencoding.h"

namespace keiko::objective {
namespace {

constexpr const char* kSmall = "model: custom, width: 24, depth: 2, heads: 2, patch_size: 8";

std::unique_ptr<Objective> make(const std::string& keys, at::ScalarType dtype = at::kDouble) {
  const config::Node node = config::parse_yaml("{" + keys + "}", "test");
  ObjectiveChoice choice;
  config::read_options(node, choice);
  return choice.options->make({4, 16, 3, {"a", "b", "c"}, dtype});
}

MicroBatch batch_of(int64_t n) {
  MicroBatch batch;
  at::manual_seed(1);
  batch.video = at::randint(256, {n, 3, 4, 16, 16}, at::kByte);
  batch.label = at::arange(n).remainder(3);
  for (int64_t i = 0; i < n; ++i) batch.positions.push_back(100 + i);
  return batch;
}

TEST(Masks, HideTheRightNumberInTheRightShape) {
  const model::TokenGrid grid{8, 14, 14, 2, 16};
  for (int64_t position = 0; position < 20; ++position) {
    const auto tube = make_mask({"tube", 0.9}, grid, 1, position);
    EXPECT_EQ(std::count(tube.begin(), tube.end(), true), 176 * 8);
    for (size_t i = 0; i < tube.size(); ++i) EXPECT_EQ(tube[i], tube[i % 196]);
    const auto random = make_mask({"random", 0.9}, grid, 1, position);
    EXPECT_EQ(std::count(random.begin(), random.end(), true), int64_t(0.9 * 1568));
    const auto future = make_mask({"future", 0.5}, grid, 1, position);
    for (size_t i = 0; i < future.size(); ++i) EXPECT_EQ(future[i], i >= 784);
    EXPECT_EQ(tube, make_mask({"tube", 0.9}, grid, 1, position));
    EXPECT_NE(tube, make_mask({"tube", 0.9}, grid, 2, position));
    EXPECT_NE(tube, make_mask({"tube", 0.9}, grid, 1, position + 1));
  }
}

TEST(Masks, EveryPlaceIsHiddenEquallyOften) {
  const model::TokenGrid grid{2, 4, 4, 2, 8};
  std::vector<int> counts(16);
  for (int64_t p = 0; p < 4000; ++p) {
    const auto mask = make_mask({"tube", 0.75}, grid, 1, p);
    for (size_t i = 0; i < 16; ++i) counts[i] += mask[i];
  }
  for (int count : counts) EXPECT_NEAR(count, 3000, 137);  // five standard deviations
}

TEST(Masks, NoneOrAllIsRefused) {
  const model::TokenGrid grid{2, 2, 2, 2, 8};
  EXPECT_THROW(hidden_count({"tube", 0.1}, grid), Error);
  EXPECT_THROW(hidden_count({"future", 0.9}, grid), Error);
}

// The loss of a batch is the sum over its clips, however it is cut: what makes slices and
// micro-batches exact.
TEST(Objective, LossesAndGradientsAddUpOverAnyCut) {
  for (const std::string& keys :
       {std::string("name: videomae, mask_ratio: 0.5, decoder_width: 16, decoder_heads: 2, ") +
            kSmall,
        std::string("name: videomae, norm_pix_loss: false, mask: random, decoder_heads: 1, ") +
            kSmall,
        std::string("name: classification, drop_path: 0.3, label_smoothing: 0.1, ") + kSmall,
        std::string("name: probe, ") + kSmall}) {
    const auto objective = make(keys);
    const MicroBatch whole = batch_of(6);
    const model::BlockRunner runner;
    const at::Tensor loss = objective->loss(whole, runner).loss;
    loss.backward();
    std::vector<at::Tensor> gradients;
    for (auto& buffer : objective->parameters().buffers()) gradients.push_back(buffer.grad.clone());
    objective->parameters().zero_grad();
    double sum = 0;
    for (const auto& [first, last] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 4}, {4, 6}}) {
      MicroBatch part{whole.video.narrow(0, first, last - first),
                      whole.label.narrow(0, first, last - first),
                      {whole.positions.begin() + first, whole.positions.begin() + last}};
      const at::Tensor piece = objective->loss(part, runner).loss;
      sum += piece.item<double>();
      piece.backward();
    }
    EXPECT_NEAR(sum, loss.item<double>(), 1e-10) << keys;
    for (size_t i = 0; i < gradients.size(); ++i)
      EXPECT_LT(
          (gradients[i] - objective->parameters().buffers()[i].grad).abs().max().item<double>(),
          1e-11)
          << keys << " " << objective->parameters().buffers()[i].name;
  }
}

TEST(Objective, EvaluationAgreesWithTheTrainingLoss) {
  for (const std::string& keys : {std::string("name: videomae, mask: future, mask_ratio: 0.5, "
                                              "norm_pix_loss: false, decoder_heads: 1, ") +
                                      kSmall,
                                  std::string("name: classification, ") + kSmall}) {
    const auto objective = make(keys);
    const MicroBatch batch = batch_of(5);
    const at::Tensor rows = objective->evaluate(batch);
    EXPECT_NEAR(rows.select(1, 0).sum().item<double>(),
                objective->loss(batch, model::BlockRunner()).loss.item<double>(), 1e-10);
    EXPECT_NEAR(objective->summarize(rows)["loss"].get<double>(),
                rows.select(1, 0).mean().item<double>(), 1e-12);
  }
}

TEST(Objective, BaselinesAreWhatTheirNamesSay) {
  const auto objective = make(std::string("name: videomae, mask: future, mask_ratio: 0.5, "
                                          "norm_pix_loss: false, decoder_heads: 1, ") +
                              kSmall);
  MicroBatch batch = batch_of(4);
  const auto summary = objective->summarize(objective->evaluate(batch));
  // By hand: frames 2 and 3 are hidden.
  const at::Tensor x = batch.video.to(at::kDouble) / 255;
  const at::Tensor hidden = x.narrow(2, 2, 2), seen = x.narrow(2, 0, 2);
  const at::Tensor constant = hidden.mean(at::IntArrayRef{0, 2, 3, 4}, true);
  EXPECT_NEAR(summary["constant_loss"].get<double>(),
              (hidden - constant).square().mean().item<double>(), 1e-12);
  EXPECT_NEAR(summary["visible_mean_loss"].get<double>(),
              (hidden - seen.mean(at::IntArrayRef{2, 3, 4}, true)).square().mean().item<double>(),
              1e-12);
  EXPECT_NEAR(summary["copy_last_loss"].get<double>(),
              (hidden - x.narrow(2, 1, 1)).square().mean().item<double>(), 1e-12);
  // Clips whose frames are all the same lose nothing when the visible ones are frozen.
  batch.video = batch.video.select(2, 0).unsqueeze(2).expand(batch.video.sizes()).contiguous();
  const auto still = objective->summarize(objective->evaluate(batch));
  EXPECT_NEAR(still["frozen_over_loss"].get<double>(), 1, 1e-12);
  EXPECT_NEAR(still["copy_last_loss"].get<double>(), 0, 1e-12);
}

TEST(Objective, WilsonIntervalGivesThePublishedExample) {
  // 81 of 263: Newcombe 1998, table I, method 3: 0.2553 to 0.3662.
  const Interval i = wilson_interval(81, 263);
  EXPECT_NEAR(i.low, 0.2553, 5e-5);
  EXPECT_NEAR(i.high, 0.3662, 5e-5);
}

TEST(Objective, AnUnknownKeyNamesTheObjectiveAndTheNearest) {
  try {
    make(std::string("name: videomae, mask_ration: 0.9, ") + kSmall);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "test:1: mask_ration is not a key of `videomae`; did you mean mask_ratio?");
  }
}

TEST(Objective, ClipsThatDoNotFitAreRefusedWithTheNearestThatDo) {
  try {
    make("name: videomae, model: tiny, patch_size: 8, tubelet_size: 3");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "clip.num_frames = 4 is not a multiple of objective.tubelet_size = 3; use 3 or 6");
  }
}

}  // namespace
}  // namespace keiko::objective
