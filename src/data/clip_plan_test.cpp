#include "data/clip_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/rng.h"
#include "data/small_set.h"

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

// torchvision's RandomResizedCrop: uniform share of the area, log-uniform aspect, any place.
TEST(ClipPlan, RandomResizedCropsAreSpreadAsPublished) {
  AugmentOptions augment;
  augment.random_resized_crop.scale = {0.1, 0.4};  // always fits: no draw is repeated
  const ItemShape item{0, 100, 4000, 4000};
  double area = 0, ratio = 0, place = 0;
  constexpr int kDraws = 10000;
  for (int64_t p = 0; p < kDraws; ++p) {
    const media::CropRect crop = plan_at({}, augment, 1, p, item).crop;
    const double share = crop.width * crop.height / (4000.0 * 4000);
    ASSERT_TRUE(share > 0.0999 && share < 0.4001);
    ASSERT_TRUE(crop.width / crop.height > 0.749 && crop.width / crop.height < 1.335);
    area += (share - 0.1) / 0.3;
    ratio += std::log(crop.width / crop.height) / std::log(4.0 / 3);
    place += crop.x / (4000 - crop.width);
  }
  const double sigma = 1 / std::sqrt(12.0 * kDraws);
  EXPECT_NEAR(area / kDraws, 0.5, 5 * sigma);
  EXPECT_NEAR(ratio / kDraws, 0, 5 * 2 * sigma);
  EXPECT_NEAR(place / kDraws, 0.5, 5 * sigma + 0.001);
}

TEST(ClipPlan, ARandomResizedCropThatNeverFitsIsTheCentreOfTheNearestAspect) {
  AugmentOptions augment;
  augment.random_resized_crop.scale = {0.95, 1};
  const auto wide = plan_at({}, augment, 1, 0, {0, 100, 1000, 90}).crop;
  EXPECT_EQ(wide, (media::CropRect{440, 0, 120, 90}));
  const auto tall = plan_at({}, augment, 1, 0, {0, 100, 90, 1000}).crop;
  EXPECT_EQ(tall, (media::CropRect{0, 440, 90, 120}));
}

// Enumerated from VideoMAE's transforms.py: 10 pairs of neighbouring scales, 13 offsets each.
TEST(ClipPlan, MultiScaleCropsAreVideoMaesTenSizesAtThirteenPlaces) {
  AugmentOptions augment;
  augment.multi_scale_crop = {1, 0.875, 0.75, 0.66};
  // 342 x 256; 256 * 0.875 = 224; 0.75: 192; 0.66: 168.96.
  const double sides[] = {256, 224, 192, 168};
  std::map<std::array<double, 4>, int> expected, seen;
  for (int i = 0; i < 4; ++i)
    for (int j = std::max(0, i - 1); j <= std::min(3, i + 1); ++j) {
      const double w = sides[j], h = sides[i];
      const double dx = std::floor((342 - w) / 4), dy = std::floor((256 - h) / 4);
      for (const auto& [a, b] : std::vector<std::pair<int, int>>{{0, 0},
                                                                 {4, 0},
                                                                 {0, 4},
                                                                 {4, 4},
                                                                 {2, 2},
                                                                 {0, 2},
                                                                 {4, 2},
                                                                 {2, 4},
                                                                 {2, 0},
                                                                 {1, 1},
                                                                 {3, 1},
                                                                 {1, 3},
                                                                 {3, 3}})
        ++expected[{a * dx, b * dy, w, h}];
    }
  constexpr int kDraws = 26000;
  for (int64_t p = 0; p < kDraws; ++p) {
    const media::CropRect c = plan_at({}, augment, 1, p, {0, 100, 342, 256}).crop;
    ++seen[{c.x, c.y, c.width, c.height}];
  }
  ASSERT_EQ(seen.size(), expected.size());
  for (const auto& [crop, weight] : expected) {
    const double mean = kDraws * weight / 130.0;
    EXPECT_NEAR(seen[crop], mean, 5 * std::sqrt(mean))
        << crop[0] << " " << crop[1] << " " << crop[2];
  }
  // 225.75 and 222.. are within two pixels of the clip's size, hence equal to it.
  for (int64_t p = 0; p < 200; ++p) {
    const media::CropRect c = plan_at({}, augment, 1, p, {0, 100, 300, 258}).crop;
    for (const double side : {c.width, c.height})
      EXPECT_TRUE(side == 258 || side == 224 || side == 193 || side == 170) << side;
  }
  // Never larger than the picture.
  for (int64_t p = 0; p < 200; ++p)
    EXPECT_LE(plan_at({}, augment, 1, p, {0, 100, 300, 222}).crop.height, 222);
}

TEST(ClipPlan, RepeatsAreOtherViewsOfTheSameFrames) {
  ClipOptions clip;
  AugmentOptions augment;
  augment.repeats = 3;
  augment.random_resized_crop.scale = {0.3, 1};
  augment.rand_augment.num_ops = 4;
  augment.rand_augment.probability = 1;
  const ItemShape item{0, 300, 640, 360};
  for (const char* frames : {"clip", "single", "shuffled"}) {
    clip.frames = frames;
    for (int64_t g = 0; g < 20; ++g) {
      const ClipPlan first = plan_at(clip, augment, 5, 3 * g, item);
      for (int64_t v = 1; v < 3; ++v) {
        const ClipPlan view = plan_at(clip, augment, 5, 3 * g + v, item);
        EXPECT_EQ(view.frames, first.frames);
        EXPECT_NE(view.crop, first.crop);
        EXPECT_NE(view.augment, first.augment);
      }
    }
  }
}

// VideoMAE's kinetics.py in mode "test": every sampling_rate-th frame is read, and clip k of K
// begins at int(k * (frames read - num_frames) / (K - 1)) of those.
TEST(ClipPlan, TestViewsAreSpreadAsInVideoMae) {
  ClipOptions clip;
  ViewOptions views{5, 3};
  Rng rng(1, Stream::kClip, 0);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t frames = int64_t(61 + rng.below(400));
    std::vector<int64_t> read;
    for (int64_t f = 0; f < frames; f += 4) read.push_back(f);
    for (int64_t k = 0; k < 5; ++k) {
      const auto start = int64_t(double(k) * double(read.size() - 16) / 4.0);
      for (int64_t s = 0; s < 3; ++s) {
        ClipPlan plan;
        plan.view = 3 * k + s;
        plan_evaluation_clip(clip, views, 1, {0, frames, 400, 300}, plan);
        ASSERT_EQ(plan.frames,
                  std::vector<int64_t>(read.begin() + start, read.begin() + start + 16))
            << frames << " frames, clip " << k;
        ASSERT_EQ(plan.crop, (media::CropRect{50.0 * double(s), 0, 300, 300}));
      }
    }
  }
  ClipPlan tall;
  tall.view = 2;
  plan_evaluation_clip(clip, views, 1, {0, 100, 300, 400}, tall);
  EXPECT_EQ(tall.crop, (media::CropRect{0, 100, 300, 300}));
}

TEST(ClipPlan, TestViewsByTimeReachFromEndToEnd) {
  const Video video = made_up_video("/v/a.mp4", 300, 10);
  const FrameTimes times(video.table, true, 0, 300, 10);
  ClipOptions clip;
  clip.num_frames = 4;
  clip.sampling_rate = 1;
  clip.fps = 2;
  ItemShape item{0, 300, 64, 48};
  item.times = &times;
  ClipPlan plan;
  plan_evaluation_clip(clip, {3, 1}, 1, item, plan);
  EXPECT_EQ(plan.frames, (std::vector<int64_t>{0, 5, 10, 15}));
  plan.view = 2;
  plan_evaluation_clip(clip, {3, 1}, 1, item, plan);
  EXPECT_GE(plan.frames.back(), 299);
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
