#include "data/frame_times.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "data/clip_plan.h"
#include "data/small_set.h"

namespace keiko::data {
namespace {

// Times as a phone writes them: some gaps of 5 ms, some of a second.
std::vector<int64_t> irregular_pts(Rng& rng, int64_t frames) {
  std::vector<int64_t> pts = {int64_t(rng.below(100000)) - 50000};
  while (int64_t(pts.size()) < frames)
    pts.push_back(pts.back() +
                  int64_t(rng.below(4) == 0 ? 1 + rng.below(1000) : 5 + rng.below(40)));
  return pts;
}

// The definition, frame by frame: the last frame with pts <= the time.
int64_t last_not_after(const std::vector<int64_t>& pts, int64_t first, int64_t count,
                       double ticks_from_first) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i)
    if (double(pts[size_t(first + i)] - pts[size_t(first)]) <= ticks_from_first) found = i;
  return found;
}

TEST(FrameTimes, TheFrameAtATimeIsTheLastThatCameOn) {
  Rng rng(3, Stream::kClip, 0);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t frames = int64_t(1 + rng.below(60));
    const auto pts = irregular_pts(rng, frames);
    const Video video = made_up_video("v", frames, 25, pts);
    ASSERT_TRUE(video.has_times);
    const int64_t first = int64_t(rng.below(uint64_t(frames)));
    const int64_t count = int64_t(1 + rng.below(uint64_t(frames - first)));
    const FrameTimes times(video.table, true, first, count, 25);
    for (int i = 0; i < 50; ++i) {
      // Half of the times are a frame's own, the hard ones.
      const int64_t frame = int64_t(rng.below(uint64_t(count)));
      const int64_t own = pts[size_t(first + frame)] - pts[size_t(first)];
      const double ticks = rng.below(2) ? double(own) : double(own) + rng.uniform(-300, 300);
      ASSERT_EQ(times.frame_at(ticks / 1000.0), last_not_after(pts, first, count, ticks))
          << "trial " << trial << ", " << ticks << " ms";
    }
    if (first + count < frames) {
      EXPECT_NEAR(times.duration(), double(pts[size_t(first + count)] - pts[size_t(first)]) / 1000,
                  1e-9);
    } else {
      EXPECT_GE(times.duration(), times.time(count - 1));
    }
  }
}

TEST(FrameTimes, WithoutUsableTimesTheFrameRateStandsIn) {
  Video video = made_up_video("v", 100, 20);
  for (const auto& spoil : std::vector<std::function<void(std::vector<int64_t>&)>>{
           [](auto& pts) { pts[40] = media::kNoTime; }, [](auto& pts) { pts[40] = 0; },
           [](auto& pts) { pts.clear(); }, [](auto& pts) { std::fill(pts.begin(), pts.end(), 7); },
           [](auto& pts) { pts.back() = INT64_MAX; }}) {
    Video spoilt = video;
    spoil(spoilt.table.frame_pts);
    ASSERT_FALSE(times_are_usable(spoilt.table));
    const FrameTimes times(spoilt.table, false, 10, 50, 30);
    EXPECT_DOUBLE_EQ(times.duration(), 2.5);
    EXPECT_EQ(times.frame_at(0.999), 19);
    EXPECT_EQ(times.frame_at(1.0), 20);
    EXPECT_EQ(times.frame_at(1e30), 49);
    EXPECT_EQ(times.frame_at(-3), 0);
  }
  video.table.stream.frame_rate_num = 0;
  EXPECT_EQ(FrameTimes(video.table, false, 0, 100, 50).frame_at(1.0), 50) << "the assumed rate";
}

ClipPlan plan_by_time(const Video& video, const ClipOptions& clip, uint64_t seed, int64_t position,
                      double from = 0, double to = std::numeric_limits<double>::infinity(),
                      bool training = true) {
  const FrameTimes times(video.table, video.has_times, 0, video.table.frame_count(), 25);
  ItemShape shape{0, video.table.frame_count(), 64, 48, &times, from, to};
  ClipPlan plan;
  plan.position = position;
  if (training)
    plan_training_clip(clip, {}, seed, shape, plan);
  else
    plan_evaluation_clip(clip, {}, seed, shape, plan);
  return plan;
}

TEST(FrameTimes, AClipByTimeFollowsTheDefinitionUnderAVariableFrameRate) {
  Rng rng(5, Stream::kClip, 1);
  for (int trial = 0; trial < 2000; ++trial) {
    const int64_t frames = int64_t(2 + rng.below(200));
    const auto pts = irregular_pts(rng, frames);
    const Video video = made_up_video("v", frames, 25, pts);
    ClipOptions clip;
    clip.num_frames = int64_t(1 + rng.below(16));
    clip.sampling_rate = int64_t(1 + rng.below(4));
    clip.fps = 4 + rng.uniform() * 30;
    const ClipPlan plan = plan_by_time(video, clip, 9, trial);
    // The start, from the contract alone: uniform over those at which the clip fits.
    const double step = double(clip.sampling_rate) / clip.fps * 1000;
    const double gaps = double(clip.num_frames - 1);
    const double duration = double(pts.back() - pts.front()) * double(frames) / double(frames - 1);
    ASSERT_EQ(int64_t(plan.frames.size()), clip.num_frames);
    if (duration - gaps * step <= 0) {
      EXPECT_EQ(plan.frames.front(), 0);
      if (gaps > 0) {
        EXPECT_EQ(plan.frames.back(), frames - 1);
      }
      continue;
    }
    const double start =
        Rng(9, Stream::kClip, uint64_t(trial), 0).uniform() * (duration - gaps * step);
    for (int64_t t = 0; t < clip.num_frames; ++t)
      ASSERT_EQ(plan.frames[size_t(t)], last_not_after(pts, 0, frames, start + double(t) * step))
          << "trial " << trial << ", frame " << t;
  }
}

TEST(FrameTimes, AConstantRateGivesAConstantStride) {
  ClipOptions clip;
  clip.num_frames = 8;
  clip.sampling_rate = 4;
  clip.fps = 25;
  for (const auto& [fps, stride] : {std::pair(25, 4), std::pair(50, 8), std::pair(100, 16)}) {
    const Video video = made_up_video("v", 600, fps);
    for (int64_t p = 0; p < 200; ++p)
      for (const bool training : {true, false}) {
        const auto frames =
            plan_by_time(video, clip, 1, p, 0, std::numeric_limits<double>::infinity(), training)
                .frames;
        for (size_t t = 1; t < frames.size(); ++t)
          ASSERT_EQ(frames[t] - frames[t - 1], stride) << fps << " fps, position " << p;
      }
  }
}

TEST(FrameTimes, ClipsStartInTheirWindowAndStayInTheItem) {
  Rng rng(8, Stream::kClip, 2);
  for (int trial = 0; trial < 2000; ++trial) {
    const int64_t frames = int64_t(2 + rng.below(300));
    const Video video = made_up_video("v", frames, 25, irregular_pts(rng, frames));
    const FrameTimes times(video.table, true, 0, frames, 25);
    ClipOptions clip;
    clip.num_frames = int64_t(1 + rng.below(8));
    clip.sampling_rate = int64_t(1 + rng.below(4));
    clip.fps = rng.below(2) ? 25 : 0;
    const double length = 0.05 + rng.uniform() * 3;
    const int64_t windows = window_count(times.duration(), frames, length);
    ASSERT_LE(windows, frames);
    const int64_t w = int64_t(rng.below(uint64_t(windows)));
    const double from = double(w) * length;
    const double to = w + 1 < windows ? from + length : std::numeric_limits<double>::infinity();
    const ClipPlan plan = plan_by_time(video, clip, 4, trial, from, to, rng.below(2));
    for (int64_t f : plan.frames) {
      ASSERT_GE(f, 0);
      ASSERT_LT(f, frames);
    }
    // The first frame is not of a later window.
    ASSERT_LT(times.time(plan.frames[0]), to) << "trial " << trial;
  }
}

TEST(FrameTimes, WindowsDrawEveryStartOfAFilmAlike) {
  // 100 s at 10 fps in windows of 7 s: 14 of them, the last one 9 s long.
  const Video video = made_up_video("v", 1000, 10);
  const FrameTimes times(video.table, true, 0, 1000, 25);
  ASSERT_EQ(window_count(times.duration(), 1000, 7), 14);
  ClipOptions clip;
  clip.num_frames = 1;
  for (const double fps : {0.0, 10.0}) {
    clip.fps = fps;
    std::vector<int> counts(14), first_window(7);
    for (int64_t p = 0; p < 14 * 1000; ++p) {
      const int64_t w = p % 14;
      const ClipPlan plan =
          plan_by_time(video, clip, 2, p, double(w) * 7,
                       w < 13 ? double(w + 1) * 7 : std::numeric_limits<double>::infinity());
      ++counts.at(size_t(std::min<int64_t>(13, plan.frames[0] / 70)));
      if (w == 0) ++first_window.at(size_t(plan.frames[0] / 10));
    }
    for (int count : counts) EXPECT_EQ(count, 1000);
    for (int count : first_window) EXPECT_NEAR(count, 143, 60) << "five standard deviations";
  }
}

TEST(FrameTimes, AnItemIsAsManyWindowsAsFit) {
  EXPECT_EQ(window_count(0, 100, 10), 1) << "unknown";
  EXPECT_EQ(window_count(3, 100, 10), 1);
  EXPECT_EQ(window_count(19.9, 1000, 10), 1);
  EXPECT_EQ(window_count(19.9999, 1000, 10), 2) << "rounded durations";
  EXPECT_EQ(window_count(7200, 200000, 10), 720);
  EXPECT_EQ(window_count(7200, 5, 10), 5) << "no more than frames";
}

}  // namespace
}  // namespace keiko::data
