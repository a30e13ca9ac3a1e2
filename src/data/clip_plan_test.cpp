#include "data/clip_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"

namespace keiko::data {
namespace {

ClipPlan plan_at(const ClipOptions& clip, const AugmentOptions& augment, uint64_t seed,
                 int64_t position, const ItemShape& item, uint32_t attempt = 0) {
  ClipPlan plan;
  plan.position = position;
  plan.attempt = attempt;
  plan_training_clip(clip, augment, seed, item, plan);
  return plan;
}

TEST(ClipPlan, FramesAndCropsStayInsideTheItem) {
  Rng rng(1, Stream::kClip, 0);
  for (int trial = 0; trial < 3000; ++trial) {
    ClipOptions clip;
    clip.num_frames = int64_t(1 + rng.below(20));
    clip.sampling_rate = int64_t(1 + rng.below(8));
    clip.frames = std::vector<std::string>{"clip", "single", "shuffled"}[rng.below(3)];
    AugmentOptions augment;
    if (rng.below(2))
      augment.random_resized_crop.scale = {0.08, 1};
    else if (rng.below(2))
      augment.multi_scale_crop = {1, 0.875, 0.75, 0.66};
    const ItemShape item{int64_t(rng.below(5)), int64_t(1 + rng.below(100)),
                         16.0 + double(rng.below(700)), 16.0 + double(rng.below(700)) + 0.5};
    const ClipPlan plan =
        plan_at(clip, augment, rng.next_u64(), int64_t(rng.below(1u << 30)), item);
    ASSERT_EQ(int64_t(plan.frames.size()), clip.num_frames);
    for (int64_t f : plan.frames) {
      ASSERT_GE(f, item.first_frame);
      ASSERT_LT(f, item.first_frame + item.frame_count);
    }
    ASSERT_GE(plan.crop.x, 0);
    ASSERT_GE(plan.crop.y, 0);
    ASSERT_GE(plan.crop.width, 1);
    ASSERT_GE(plan.crop.height, 1);
    ASSERT_LE(plan.crop.x + plan.crop.width, item.width + 1e-9);
    ASSERT_LE(plan.crop.y + plan.crop.height, item.height + 1e-9);
  }
}

TEST(ClipPlan, IsAFunctionOfSeedPositionAndAttemptAlone) {
  ClipOptions clip;
  AugmentOptions augment;
  augment.random_resized_crop.scale = {0.3, 1};
  augment.flip = 0.5;
  const ItemShape item{0, 300, 640, 360};
  const ClipPlan a = plan_at(clip, augment, 5, 17, item);
  const ClipPlan b = plan_at(clip, augment, 5, 17, item);
  EXPECT_EQ(a.frames, b.frames);
  EXPECT_EQ(a.crop, b.crop);
  EXPECT_EQ(a.flip, b.flip);
  EXPECT_NE(a.crop, plan_at(clip, augment, 5, 18, item).crop);
  EXPECT_NE(a.crop, plan_at(clip, augment, 6, 17, item).crop);
  EXPECT_NE(a.crop, plan_at(clip, augment, 5, 17, item, 1).crop);
}

TEST(ClipPlan, AShortVideoGetsASmallerStrideThenRepeatsItsLastFrame) {
  ClipOptions clip;
  clip.num_frames = 8;
  clip.sampling_rate = 4;
  EXPECT_EQ(plan_at(clip, {}, 1, 0, {0, 15, 32, 32}).frames,
            (std::vector<int64_t>{0, 2, 4, 6, 8, 10, 12, 14}));
  EXPECT_EQ(plan_at(clip, {}, 1, 0, {0, 3, 32, 32}).frames,
            (std::vector<int64_t>{0, 1, 2, 2, 2, 2, 2, 2}));
}

TEST(ClipPlan, EveryStartIsEquallyLikely) {
  ClipOptions clip;
  clip.num_frames = 4;
  clip.sampling_rate = 2;
  std::vector<int> counts(10);
  for (int64_t p = 0; p < 10000; ++p)
    ++counts.at(size_t(plan_at(clip, {}, 1, p, {0, 16, 32, 32}).frames[0]));
  for (int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(ClipPlan, ControlsRepeatOrShuffleTheSameFrames) {
  ClipOptions clip;
  clip.num_frames = 8;
  clip.sampling_rate = 1;
  const ItemShape item{0, 50, 32, 32};
  const auto frames = plan_at(clip, {}, 1, 3, item).frames;
  clip.frames = "shuffled";
  auto shuffled = plan_at(clip, {}, 1, 3, item).frames;
  EXPECT_NE(shuffled, frames);
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, frames);
  clip.frames = "single";
  const auto single = plan_at(clip, {}, 1, 3, item).frames;
  EXPECT_EQ(std::count(single.begin(), single.end(), single[0]), 8);
  EXPECT_NE(std::find(frames.begin(), frames.end(), single[0]), frames.end());
}

TEST(ClipPlan, FlipsAsOftenAsAsked) {
  AugmentOptions augment;
  augment.flip = 0.25;
  int flips = 0;
  for (int64_t p = 0; p < 10000; ++p) flips += plan_at({}, augment, 1, p, {0, 100, 32, 32}).flip;
  EXPECT_NEAR(flips, 2500, 217);  // five standard deviations
}

}  // namespace
}  // namespace keiko::data
