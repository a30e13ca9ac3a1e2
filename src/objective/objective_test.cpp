#include "objective/objective.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "config/tree.h"
#include "objective/classification.h"
#include "objective/masked_autoencoding.h"

namespace keiko::objective {
namespace {

constexpr const char* kSmall = "model: custom, width: 24, depth: 2, heads: 2, patch_size: 8";

std::unique_ptr<Objective> make(const std::string& keys, at::ScalarType dtype = at::kDouble,
                                int64_t steps = 0) {
  const config::Node node = config::parse_yaml("{" + keys + "}", "test");
  ObjectiveChoice choice;
  config::read_options(node, choice);
  ObjectiveContext context{4, 16, 3, {"a", "b", "c"}, dtype, steps};
  context.targets = {{"x", 0.5, 0.25}, {"y", 0.4, 1}};
  return choice.options->make(context);
}

MicroBatch batch_of(int64_t n) {
  MicroBatch batch;
  at::manual_seed(1);
  batch.video = at::randint(256, {n, 3, 4, 16, 16}, at::kByte);
  batch.label = at::arange(n).remainder(3);
  batch.target = at::rand({n, 2}, at::kFloat);
  batch.target[n / 2][1] = std::nan("");  // not known
  for (int64_t i = 0; i < n; ++i) batch.positions.push_back(100 + i);
  batch.step = 25;
  batch.batch_first = 100;
  batch.batch_last = 100 + n;
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
        std::string("name: probe, lr_scales: [1, 2], ") + kSmall,
        std::string("name: probe, pooling: attentive, pooler_heads: 2, ") + kSmall,
        std::string(
            "name: videomae, mask_ratio: 0.5, decoder_mask_ratio: 0.5, decoder_heads: 1, ") +
            kSmall,
        std::string("name: vjepa2, predictor_width: 16, predictor_depth: 1, predictor_heads: 2, "
                    "masks: [{blocks: 1, scale: 0.4}, {blocks: 2, scale: 0.2}], "
                    "context_loss: 0.5, context_loss_warmup: [0, 1], ") +
            kSmall,
        std::string("name: classification, mixup: 0.8, cutmix: 1, ") + kSmall,
        std::string("name: classification, target: multilabel, label_smoothing: 0.1, mixup: 0.8, "
                    "cutmix: 1, drop_path: 0.3, ") +
            kSmall,
        std::string("name: classification, target: regression, mixup: 0.8, ") + kSmall,
        std::string("name: classification, target: regression, regression_loss: smooth_l1, "
                    "backbone: vjepa2, pooler_depth: 1, ") +
            kSmall,
        std::string("name: classification, backbone: vjepa2, pooler_depth: 1, ") + kSmall}) {
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
         keys.find("mixup") == std::string::npos
             ? std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 4}, {4, 6}}
             : std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {4, 6}}) {  // whole pairs
      MicroBatch part = whole;
      part.video = whole.video.narrow(0, first, last - first);
      part.label = whole.label.narrow(0, first, last - first);
      part.target = whole.target.narrow(0, first, last - first);
      part.positions.assign(whole.positions.begin() + first, whole.positions.begin() + last);
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
  for (const std::string& keys :
       {std::string("name: videomae, mask: future, mask_ratio: 0.5, "
                    "norm_pix_loss: false, decoder_heads: 1, ") +
            kSmall,
        std::string("name: classification, ") + kSmall,
        std::string("name: classification, target: multilabel, ") + kSmall,
        std::string("name: classification, target: regression, ") + kSmall}) {
    const auto objective = make(keys);
    MicroBatch batch = batch_of(5);
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

// What a head's numbers mean is part of the weights, in a new run and in a resumed one.
TEST(Objective, ARegressionsStatisticsGoWithItsWeights) {
  const std::string keys = std::string("name: classification, target: regression, ") + kSmall;
  const auto find = [](const std::vector<model::NamedTensor>& all, const std::string& name) {
    for (const auto& [own, tensor] : all)
      if (own == name) return tensor;
    return at::Tensor();
  };
  const auto trained = make(keys);
  for (auto& [name, statistic] : trained->statistics()) at::Tensor(statistic).add_(1);
  const auto weights = trained->weights();
  EXPECT_EQ(find(weights, "regression.target_mean")[0].item<double>(), 1.5);

  const auto resumed = make(keys);
  const auto unmatched = resumed->load_weights(weights);
  EXPECT_TRUE(unmatched.missing.empty() && unmatched.unused.empty());
  const auto tuned = make(keys);
  tuned->start_from({weights, {}});
  for (const auto& [name, tensor] : weights) {
    EXPECT_TRUE(find(resumed->weights(), name).equal(tensor)) << name;
    EXPECT_TRUE(find(tuned->weights(), name).equal(tensor)) << name;
  }
  // From an encoder alone the data's own stay.
  const auto fresh = make(keys);
  std::vector<model::NamedTensor> encoder;
  for (const auto& entry : weights)
    if (entry.first.rfind("videomae.", 0) == 0) encoder.push_back(entry);
  fresh->start_from({encoder, {}});
  EXPECT_EQ(find(fresh->weights(), "regression.target_mean")[0].item<double>(), 0.5);
  EXPECT_FALSE(make(keys)->load_weights(encoder).missing.empty());
}

TEST(Objective, ConfigTellsTransformersWhichProblemItIs) {
  for (const auto& [target, type] : {std::pair("multilabel", "multi_label_classification"),
                                     std::pair("regression", "regression")})
    for (const char* backbone : {"videomae", "vjepa2"}) {
      const auto config = make(fmt::format("name: classification, backbone: {}, target: {}, {}",
                                           backbone, target, kSmall))
                              ->config();
      EXPECT_EQ(config["problem_type"], type);
      EXPECT_EQ(config["id2label"].size(), 2u);
      EXPECT_EQ(config["id2label"]["1"], "y");
    }
  EXPECT_FALSE(
      make(std::string("name: classification, ") + kSmall)->config().contains("problem_type"));
}

TEST(Objective, WhatDoesNotGoWithTheTargetsIsRefused) {
  const auto error_of = [](const std::string& keys) -> std::string {
    try {
      make(keys + kSmall);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(error_of("name: classification, target: multilabel, num_classes: 3, ")
                .find("num_classes = 3, but the data has 2 targets"),
            std::string::npos);
  EXPECT_EQ(error_of("name: classification, target: multilabel, num_classes: 2, "), "no error");
  EXPECT_NE(error_of("name: classification, target: regression, label_smoothing: 0.1, ")
                .find("label_smoothing = 0.1 does not go with target = regression"),
            std::string::npos);
  EXPECT_NE(error_of("name: classification, target: multilabel, regression_loss: mse, ")
                .find("regression_loss is not a key"),
            std::string::npos);
  ObjectiveChoice choice;
  config::read_options(
      config::parse_yaml(fmt::format("{{name: classification, target: regression, {}}}", kSmall),
                         "test"),
      choice);
  EXPECT_THROW(choice.options->make({4, 16, 3, {"a"}, at::kDouble, 0}), Error);
}

// Views of an item: the softmax of each, averaged, is what counts.
// Equal scores count for the class with the smaller number, and a score that is no number for none.
TEST(Objective, TiesAndNotANumberAreNoHits) {
  const at::Tensor label = at::tensor({6, 0, 3}, at::kLong);
  at::Tensor logits = at::zeros({3, 7}, at::kDouble);
  logits[2].fill_(std::nan(""));
  const at::Tensor top5 = classification_rows(logits, label, 1).select(1, 2);
  EXPECT_EQ(top5[0].item<double>(), 0);  // six others come first
  EXPECT_EQ(top5[1].item<double>(), 1);
  EXPECT_EQ(top5[2].item<double>(), 0);
}

TEST(Objective, PredictionsAreAveragedOverViews) {
  const at::Tensor logits = at::tensor({2.0, 0.0, 0.0, -1.0, 1.0, 3.0}, at::kDouble).view({2, 3});
  const at::Tensor row = classification_rows(logits, at::tensor({1, 1}, at::kLong), 2);
  const at::Tensor mean = logits.softmax(1).mean(0);
  ASSERT_EQ(row.size(0), 1);
  EXPECT_NEAR(row[0][0].item<double>(), -std::log(mean[1].item<double>()), 1e-12);
  EXPECT_EQ(row[0][4].item<double>(), mean.argmax().item<int64_t>());
}

// The teacher is what the published formula makes of all the student's weights so far.
TEST(JointEmbedding, TheTeacherFollowsTheEncoder) {
  const auto objective =
      make(std::string("name: vjepa2, predictor_width: 16, predictor_depth: 1, predictor_heads: 2, "
                       "masks: [{blocks: 1, scale: 0.4}], ema: [0.9, 0.5], ") +
               kSmall,
           at::kDouble, /*steps=*/3);
  const auto encoder_of = [](const std::vector<model::NamedTensor>& all) {
    std::map<std::string, at::Tensor> encoder;
    for (const auto& [name, tensor] : all)
      if (name.rfind("encoder.", 0) == 0) encoder[name] = tensor.clone();
    return encoder;
  };
  auto want = encoder_of(objective->weights());
  const double momenta[] = {0.9, 0.7, 0.5};
  for (int64_t step = 1; step <= 3; ++step) {
    {
      const c10::NoGradGuard no_grad;
      for (auto& buffer : objective->parameters().buffers()) buffer.value.add_(0.01 * double(step));
    }
    objective->after_step(step);
    const double m = momenta[step - 1];
    for (const auto& [name, student] : encoder_of(objective->weights()))
      want[name] = m * want[name] + (1 - m) * student;
  }
  const auto got = encoder_of(objective->ema_weights());
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want)
    EXPECT_LT((got.at(name) - tensor).abs().max().item<double>(), 1e-14) << name;
}

TEST(BlockMasks, AreSharedAndCutTheSameOnEveryRank) {
  const model::TokenGrid grid{4, 6, 6, 2, 8};
  const BlockMaskRule rule{3, 0.2};
  for (const MaskCut cut : {MaskCut::kRandom, MaskCut::kRaster}) {
    std::vector<int64_t> all;
    for (int64_t p = 40; p < 60; ++p) all.push_back(p);
    const ContextTarget whole = make_block_masks(rule, 1, cut, grid, 7, 2, 40, 60, all);
    for (size_t i = 0; i < all.size(); ++i) {
      const ContextTarget one = make_block_masks(rule, 1, cut, grid, 7, 2, 40, 60, {all[i]});
      EXPECT_TRUE(one.context[0].equal(whole.context[int64_t(i)]));
      EXPECT_TRUE(one.target[0].equal(whole.target[int64_t(i)]));
      std::set<int64_t> seen;
      for (const at::Tensor& ids : {one.context, one.target})
        for (int64_t j = 0; j < ids.size(1); ++j) {
          const int64_t id = ids[0][j].item<int64_t>();
          EXPECT_TRUE(id >= 0 && id < grid.count());
          EXPECT_TRUE(seen.insert(id).second) << "token " << id << " is both, or twice";
        }
    }
    EXPECT_GT(whole.context.size(1), 0);
    EXPECT_GT(whole.target.size(1), 0);
  }
}

// What the cut by raster order does to the end of a clip, and the random one does not.
TEST(BlockMasks, TheRandomCutKeepsLateFramesAndTheRasterCutDoesNot) {
  const model::TokenGrid grid{8, 14, 14, 2, 16};
  std::vector<int64_t> all;
  for (int64_t p = 0; p < 64; ++p) all.push_back(p);
  const auto late_share = [&](MaskCut cut) {
    const ContextTarget split = make_block_masks({8, 0.15}, 0, cut, grid, 1, 0, 0, 64, all);
    return split.context.ge(grid.count() * 7 / 8).to(at::kDouble).mean().item<double>() * 8;
  };
  EXPECT_NEAR(late_share(MaskCut::kRandom), 1, 0.05);
  EXPECT_LT(late_share(MaskCut::kRaster), 0.5);
}

TEST(DecoderMask, AnOddGridIsRefused) {
  const std::string keys =
      "name: videomae, decoder_mask_ratio: 0.5, mask: random, mask_ratio: 0.5, model: custom, "
      "width: 24, depth: 1, heads: 2, decoder_heads: 1, patch_size: ";
  EXPECT_NO_THROW(make(keys + "4"));  // 4 x 4 tokens
  try {
    make(keys + "16");
    FAIL() << "1 x 1 tokens have no whole cell";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("even number of tokens"), std::string::npos) << e.what();
  }
}

TEST(DecoderMask, LeavesOutItsShareAndRunsAroundTheCell) {
  const model::TokenGrid grid{8, 4, 6, 2, 8};
  for (const double ratio : {0.25, 0.5, 0.75})
    for (int64_t position = 0; position < 10; ++position) {
      const auto mask = make_decoder_mask({ratio}, grid, 3, position);
      for (int64_t place = 0; place < 24; ++place) {
        double left_out = 0;
        for (int64_t time = 0; time < 8; ++time) left_out += mask[size_t(time * 24 + place)];
        EXPECT_EQ(left_out / 8, ratio) << "place " << place;
      }
      for (int64_t time = 0; time < 8; ++time)
        EXPECT_EQ(std::count(mask.begin() + time * 24, mask.begin() + (time + 1) * 24, true),
                  std::llround(ratio * 24));
    }
}

TEST(Mixup, PartnersShareOneDraw) {
  const MixupOptions both{0.8, 1.0};
  double mean = 0;
  int64_t cuts = 0;
  for (const int64_t repeats : {1, 3}) {
    for (int64_t position = 0; position < 3000; ++position) {
      const Mix mix = make_mix(both, 5, position, repeats, 32, 48);
      const Mix other = make_mix(both, 5, mix.partner, repeats, 32, 48);
      ASSERT_EQ(other.partner, position);
      ASSERT_EQ(std::abs(mix.partner - position), repeats);
      ASSERT_EQ(other.share, mix.share);
      ASSERT_EQ(other.is_cut, mix.is_cut);
      if (mix.is_cut) {
        EXPECT_NEAR(1 - mix.share,
                    double((mix.bottom - mix.top) * (mix.right - mix.left)) / (32 * 48), 1e-12);
        cuts += 1;
      } else {
        mean += mix.share;
      }
    }
  }
  EXPECT_NEAR(double(cuts) / 6000, 0.5, 0.05);
  EXPECT_NEAR(mean / double(6000 - cuts), 0.5, 0.03);
}

// Beta(0.8, 0.8) has a variance of 0.25 / 2.6.
TEST(Mixup, SharesAreBetaDistributed) {
  double sum = 0, squares = 0;
  constexpr int kDraws = 20000;
  for (int64_t position = 0; position < 2 * kDraws; position += 2) {
    const double share = make_mix({0.8, 0}, 1, position, 1, 8, 8).share;
    ASSERT_TRUE(share >= 0 && share <= 1);
    sum += share;
    squares += share * share;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(mean, 0.5, 0.01);
  EXPECT_NEAR(squares / kDraws - mean * mean, 0.25 / 2.6, 0.003);
}

TEST(Mixup, TargetsAreSmoothedAsTorchSmoothsThemAndMixedByShare) {
  const at::Tensor labels = at::tensor({0, 2}, at::kLong);
  const at::Tensor logits = at::tensor({0.3, -1.0, 2.0, 1.0, 0.5, -0.5}, at::kDouble).view({2, 3});
  const at::Tensor plain = mixed_targets(labels, 3, 0.1, {}, at::kDouble);
  EXPECT_NEAR(
      at::cross_entropy_loss(logits, plain).item<double>(),
      at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, -100, 0.1).item<double>(),
      1e-14);
  const Mix first{1, 0.7}, second{0, 0.7};
  const at::Tensor mixed =
      mixed_targets(labels, 3, 0, unpack_mixes(pack_mixes({first, second}, {1, 0})), at::kDouble);
  EXPECT_LT((mixed - at::tensor({0.7, 0.0, 0.3, 0.3, 0.0, 0.7}, at::kDouble).view({2, 3}))
                .abs()
                .max()
                .item<double>(),
            1e-15);
}

// The truth is a copy of the partner's box by its edges, clip by clip.
TEST(Mixup, CutClipsShowThePartnersBoxAndNothingElseOfIt) {
  const at::Tensor video =
      at::arange(4 * 3 * 2 * 5 * 6).remainder(251).view({4, 3, 2, 5, 6}).to(at::kByte);
  const std::vector<Mix> mixes = {{1, 0.5, true, 1, 2, 4, 6},   // a box inside
                                  {0, 0.5, true, 0, 0, 5, 6},   // all of it
                                  {3, 0.3, false, 0, 0, 0, 0},  // blended, not cut
                                  {2, 1.0, true, 2, 3, 2, 3}};  // an empty box
  const std::vector<int64_t> partners = {1, 0, 3, 2};
  at::Tensor truth = video.clone();
  for (size_t i = 0; i < mixes.size(); ++i) {
    const Mix& m = mixes[i];
    const auto box = [&](const at::Tensor& clip) {
      return clip.slice(2, m.top, m.bottom).slice(3, m.left, m.right);
    };
    box(truth[int64_t(i)]).copy_(box(video[partners[i]]));
  }
  const at::Tensor cut = cut_clips(video, unpack_mixes(pack_mixes(mixes, partners)));
  EXPECT_TRUE(cut.equal(truth));
  EXPECT_FALSE(cut.equal(video));
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
