#include "data/augment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/rng.h"

namespace keiko::data {
namespace {

constexpr int64_t kDraws = 10000, kSize = 224;

// All plans of the first positions.
std::vector<AugmentPlan> plans(const AugmentOptions& options, int64_t size = kSize) {
  std::vector<AugmentPlan> all;
  for (int64_t p = 0; p < kDraws; ++p) all.push_back(plan_augment(options, size, 3, p, 0));
  return all;
}

// Five standard deviations of a count of `n` draws with probability `p`.
double five_sigma(double n, double p) { return 5 * std::sqrt(n * p * (1 - p)); }

AugmentOptions everything() {
  AugmentOptions o;
  o.color_jitter = {0.4, 0.4, 0.4, 0.1};
  o.rand_augment.num_ops = 4;
  o.random_erasing.probability = 0.5;
  return o;
}

std::vector<uint8_t> noise_clip(int64_t frames, int64_t size) {
  std::vector<uint8_t> clip(size_t(3 * frames * size * size));
  Rng rng(1, Stream::kSynth, 0);
  for (uint8_t& value : clip) value = uint8_t(rng.next_u32());
  return clip;
}

TEST(Augment, IsAFunctionOfSeedPositionAndAttemptAlone) {
  const AugmentOptions o = everything();
  const AugmentPlan plan = plan_augment(o, kSize, 5, 17, 0);
  EXPECT_EQ(plan, plan_augment(o, kSize, 5, 17, 0));
  EXPECT_NE(plan, plan_augment(o, kSize, 5, 18, 0));
  EXPECT_NE(plan, plan_augment(o, kSize, 6, 17, 0));
  EXPECT_NE(plan, plan_augment(o, kSize, 5, 17, 1));
  // One part does not move the draws of another.
  AugmentOptions without = o;
  without.color_jitter = {};
  const AugmentPlan other = plan_augment(without, kSize, 5, 17, 0);
  EXPECT_EQ(other.erased, plan.erased);
  EXPECT_EQ(other.steps, std::vector<PictureStep>(plan.steps.begin() + 4, plan.steps.end()));
}

TEST(Augment, OffDrawsNothing) {
  for (const AugmentPlan& plan : plans({})) ASSERT_TRUE(plan.is_empty());
}

TEST(Augment, RandAugmentDrawsEachOfItsFifteenOperationsAlikeHalfTheTime) {
  AugmentOptions o;
  o.rand_augment.num_ops = 4;
  std::map<PictureOp, int> counts;
  int steps = 0;
  for (const AugmentPlan& plan : plans(o)) {
    ASSERT_LE(plan.steps.size(), 4u);
    for (const PictureStep& step : plan.steps) ++counts[step.op], ++steps;
  }
  EXPECT_NEAR(steps, 4 * kDraws / 2, five_sigma(4 * kDraws, 0.5));
  EXPECT_EQ(counts.size(), 15u);
  EXPECT_EQ(counts.count(PictureOp::kHue), 0u);
  for (const auto& [op, count] : counts)
    EXPECT_NEAR(count, 4.0 * kDraws / 30, five_sigma(4 * kDraws, 1.0 / 30)) << name_of(op);
}

// With no spread, what timm's rand-m7-...-inc1 gives: int(2.8) = 2 bits fewer, int(179.2), int(77).
TEST(Augment, MagnitudesBecomeTimmsIncreasingArguments) {
  AugmentOptions o;
  o.rand_augment = {.num_ops = 4, .magnitude = 7, .magnitude_std = 0, .probability = 1};
  const std::map<PictureOp, std::pair<double, double>> published = {
      {PictureOp::kAutoContrast, {0, 0}},
      {PictureOp::kEqualize, {0, 0}},
      {PictureOp::kInvert, {0, 0}},
      {PictureOp::kRotate, {-21, 21}},
      {PictureOp::kPosterize, {2, 2}},
      {PictureOp::kSolarize, {77, 77}},
      {PictureOp::kSolarizeAdd, {77, 77}},
      {PictureOp::kColor, {0.37, 1.63}},
      {PictureOp::kContrast, {0.37, 1.63}},
      {PictureOp::kBrightness, {0.37, 1.63}},
      {PictureOp::kSharpness, {0.37, 1.63}},
      {PictureOp::kShearX, {-0.21, 0.21}},
      {PictureOp::kShearY, {-0.21, 0.21}},
      {PictureOp::kTranslateXRel, {-0.315, 0.315}},
      {PictureOp::kTranslateYRel, {-0.315, 0.315}}};
  std::map<PictureOp, std::pair<int, int>> signs;
  for (const AugmentPlan& plan : plans(o)) {
    ASSERT_EQ(plan.steps.size(), 4u);
    for (const PictureStep& step : plan.steps) {
      const auto [low, high] = published.at(step.op);
      const bool is_high = std::abs(step.argument - high) < 1e-12;
      ASSERT_TRUE(is_high || std::abs(step.argument - low) < 1e-12)
          << name_of(step.op) << " " << step.argument;
      ++(is_high ? signs[step.op].second : signs[step.op].first);
    }
  }
  for (const auto& [op, sign] : signs)
    if (published.at(op).first != published.at(op).second) {
      const double n = sign.first + sign.second;
      EXPECT_NEAR(sign.second, n / 2, five_sigma(n, 0.5)) << name_of(op);
    }
}

TEST(Augment, MagnitudesSpreadNormallyAndStayInRange) {
  AugmentOptions o;
  o.rand_augment = {.num_ops = 4, .magnitude = 7, .magnitude_std = 0.5, .probability = 1};
  double sum = 0, squares = 0, n = 0;
  for (const AugmentPlan& plan : plans(o))
    for (const PictureStep& step : plan.steps)
      if (step.op == PictureOp::kRotate) {
        const double magnitude = std::abs(step.argument) / 3;
        sum += magnitude;
        squares += magnitude * magnitude;
        ++n;
      }
  EXPECT_NEAR(sum / n, 7, 5 * 0.5 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n - sum / n * sum / n), 0.5, 5 * 0.5 / std::sqrt(2 * n));
  o.rand_augment.magnitude = 9.5;
  o.rand_augment.magnitude_std = 5;
  for (const AugmentPlan& plan : plans(o))
    for (const PictureStep& step : plan.steps) {
      if (step.op == PictureOp::kPosterize) {
        ASSERT_TRUE(step.argument >= 0 && step.argument <= 4);
      } else if (step.op == PictureOp::kSolarize) {
        ASSERT_TRUE(step.argument >= 0 && step.argument <= 256);
      } else if (step.op == PictureOp::kRotate) {
        ASSERT_LE(std::abs(step.argument), 30);
      } else if (step.op == PictureOp::kSharpness) {
        ASSERT_TRUE(step.argument >= 0.1 - 1e-12 && step.argument <= 1.9 + 1e-12);
      }
    }
}

TEST(Augment, ColourJitterIsUniformInAnyOrder) {
  AugmentOptions o;
  o.color_jitter = {0.4, 1.5, 0.2, 0.1};
  const std::map<PictureOp, std::pair<double, double>> ranges = {
      {PictureOp::kBrightness, {0.6, 1.4}},
      {PictureOp::kContrast, {0, 2.5}},
      {PictureOp::kColor, {0.8, 1.2}},
      {PictureOp::kHue, {-0.1, 0.1}}};
  std::map<std::vector<PictureOp>, int> orders;
  std::map<PictureOp, double> sums;
  for (const AugmentPlan& plan : plans(o)) {
    ASSERT_EQ(plan.steps.size(), 4u);
    std::vector<PictureOp> order;
    for (const PictureStep& step : plan.steps) {
      const auto [low, high] = ranges.at(step.op);
      ASSERT_TRUE(step.argument >= low && step.argument < high);
      sums[step.op] += (step.argument - low) / (high - low);
      order.push_back(step.op);
    }
    ++orders[order];
  }
  EXPECT_EQ(orders.size(), 24u);
  for (const auto& [order, count] : orders)
    EXPECT_NEAR(count, kDraws / 24.0, five_sigma(kDraws, 1.0 / 24));
  for (const auto& [op, sum] : sums)
    EXPECT_NEAR(sum / kDraws, 0.5, 5 / std::sqrt(12.0 * kDraws)) << name_of(op);
  o.color_jitter = {.contrast = 0.3};
  for (const AugmentPlan& plan : plans(o)) ASSERT_EQ(plan.steps.size(), 1u);
}

TEST(Augment, ErasesAsOftenAndAsMuchAsAsked) {
  AugmentOptions o;
  o.random_erasing.probability = 0.25;
  double count = 0, area = 0, tall = 0;
  for (const AugmentPlan& plan : plans(o)) {
    if (!plan.erased) continue;
    const ErasedBox& box = *plan.erased;
    ++count;
    ASSERT_TRUE(box.x >= 0 && box.y >= 0 && box.x + box.width <= kSize &&
                box.y + box.height <= kSize);
    const double share = double(box.width) * box.height / (kSize * kSize);
    const double ratio = double(box.height) / box.width;
    // A pixel of rounding on each side.
    ASSERT_TRUE(share > 0.019 && share < 0.337) << share;
    ASSERT_TRUE(ratio > 0.29 && ratio < 3.45) << ratio;
    area += share;
    tall += ratio > 1;
  }
  EXPECT_NEAR(count, 0.25 * kDraws, five_sigma(kDraws, 0.25));
  EXPECT_NEAR(tall, count / 2, five_sigma(count, 0.5));
  // Uniform between 0.02 and 1/3, less the few wide boxes that did not fit and were drawn again.
  EXPECT_NEAR(area / count, (0.02 + 1.0 / 3) / 2, 0.01);
}

// Each frame alone gives what it gives in the clip, but for the noise.
TEST(Augment, AllFramesOfAClipGetTheSameSteps) {
  constexpr int64_t kFrames = 3, kSide = 40;
  AugmentOptions o = everything();
  o.random_erasing.probability = 0;
  const std::vector<uint8_t> before = noise_clip(kFrames, kSide);
  constexpr size_t kPlane = size_t(kSide * kSide);
  AugmentScratch scratch;
  for (int64_t p = 0; p < 50; ++p) {
    const AugmentPlan plan = plan_augment(o, kSide, 1, p, 0);
    std::vector<uint8_t> clip = before;
    apply_augment(plan, clip.data(), kFrames, kSide, scratch);
    for (size_t t = 0; t < size_t(kFrames); ++t) {
      std::vector<uint8_t> frame, expected;
      for (size_t c = 0; c < 3; ++c) {
        const size_t at = (c * size_t(kFrames) + t) * kPlane;
        frame.insert(frame.end(), before.begin() + at, before.begin() + at + kPlane);
        expected.insert(expected.end(), clip.begin() + at, clip.begin() + at + kPlane);
      }
      AugmentScratch fresh;
      apply_augment(plan, frame.data(), 1, kSide, fresh);
      ASSERT_EQ(frame, expected) << "position " << p << ", frame " << t << ": " << describe(plan);
    }
  }
}

TEST(Augment, VectorInstructionsGiveTheBytesOfPlainOnes) {
  constexpr int kWidth = 61, kHeight = 47;
  Rng rng(1, Stream::kSynth, 1);
  std::vector<uint8_t> before(kWidth * kHeight);
  Warp warp;
  for (const bool bicubic : {false, true})
    for (int trial = 0; trial < 40; ++trial) {
      // Extremes, too: sums are largest there.
      for (uint8_t& value : before)
        value = uint8_t(trial % 2 == 0 ? rng.below(256) : 255 * rng.below(2));
      warp.prepare(rotation(rng.uniform(-90, 90), kWidth, kHeight), kWidth, kHeight, bicubic);
      std::vector<uint8_t> a = before, b = before;
      warp.apply(a.data(), 128);
      warp.apply(b.data(), 128, true);
      ASSERT_EQ(a, b);
    }
}

TEST(Augment, AnEmptyPlanTouchesNothing) {
  const std::vector<uint8_t> before = noise_clip(2, 32);
  std::vector<uint8_t> clip = before;
  AugmentScratch scratch;
  apply_augment({}, clip.data(), 2, 32, scratch);
  EXPECT_EQ(clip, before);
}

TEST(Augment, SaysWhatItDraws) {
  AugmentPlan plan;
  EXPECT_EQ(describe(plan), "");
  plan.steps = {{PictureOp::kInvert}, {PictureOp::kRotate, -21.25}};
  plan.erased = {12, 100, 60, 41, 5};
  EXPECT_EQ(describe(plan), "Invert, Rotate -21.25, erased 60x41 at 12,100");
}

}  // namespace
}  // namespace keiko::data
