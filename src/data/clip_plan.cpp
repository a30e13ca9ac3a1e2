#include "data/clip_plan.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "data/clip_rng.h"

namespace keiko::data {
namespace {

// Where in its window a clip lies.
struct Place {
  std::optional<double> draw;   // training: in [0, 1) of all starts there are
  int64_t view = 0, views = 1;  // else: one of so many from end to end; the middle of one
};

void choose_frames_by_index(const ClipOptions& clip, const ItemShape& item, const Place& place,
                            ClipPlan& plan) {
  const int64_t n = clip.num_frames;
  int64_t stride = clip.sampling_rate;
  if ((n - 1) * stride + 1 > item.frame_count)
    stride = n > 1 ? std::max<int64_t>(1, (item.frame_count - 1) / (n - 1)) : 1;
  const int64_t span = (n - 1) * stride + 1;
  const int64_t last_start = std::max<int64_t>(0, item.frame_count - span);
  int64_t low = 0, high = item.frame_count;  // the window: frames in [low, high)
  if (item.times != nullptr) {
    // Frames belong to the window in which they come on; a microsecond forgives rounding.
    const auto first_from = [&](double time) {
      const int64_t frame = item.times->frame_at(time);
      return frame + (item.times->time(frame) < time - 1e-6);
    };
    low = item.window_start_s > 0 ? first_from(item.window_start_s) : 0;
    if (item.window_end_s < item.times->duration()) high = first_from(item.window_end_s);
    if (low >= high) {  // a picture that stands longer than a window
      low = item.times->frame_at(item.window_start_s);
      high = low + 1;
    }
  }
  int64_t start;
  if (place.draw) {
    const int64_t starts = std::max<int64_t>(1, std::min(high, last_start + 1) - low);
    start = std::min(low + std::min(int64_t(*place.draw * double(starts)), starts - 1), last_start);
  } else if (place.views > 1) {
    // As VideoMAE's test set: strided frames are counted first, then starts are spread over those.
    const int64_t strided = (std::max(high - low, span) + stride - 1) / stride;
    const double step = double(std::max<int64_t>(0, strided - n)) / double(place.views - 1);
    start = std::min(low + int64_t(double(place.view) * step) * stride, last_start);
  } else {
    start = low + int64_t(std::floor(0.5 * double(high - low - span + 1)));
    start = std::clamp<int64_t>(start, 0, last_start);
  }
  plan.frames.clear();
  for (int64_t t = 0; t < n; ++t)
    plan.frames.push_back(item.first_frame + std::min(start + t * stride, item.frame_count - 1));
}

void choose_frames_by_time(const ClipOptions& clip, const ItemShape& item, const Place& place,
                           ClipPlan& plan) {
  const FrameTimes& times = *item.times;
  const double gaps = double(clip.num_frames - 1), duration = times.duration();
  double step = double(clip.sampling_rate) / clip.fps;
  double last_start = duration - gaps * step;
  if (last_start <= 0) {
    last_start = 0;
    if (gaps > 0) step = std::min(step, times.time(times.count() - 1) / gaps);
  }
  const double low = std::min(item.window_start_s, last_start);
  const double high = std::min(item.window_end_s, duration);
  double start;
  if (place.draw)
    start = low + *place.draw * std::max(0.0, std::min(high, last_start) - low);
  else if (place.views > 1)
    start = low + std::max(0.0, std::min(high - gaps * step, last_start) - low) *
                      double(place.view) / double(place.views - 1);
  else
    start = std::clamp((item.window_start_s + high - gaps * step) / 2, 0.0, last_start);
  plan.frames.clear();
  for (int64_t t = 0; t < clip.num_frames; ++t)
    plan.frames.push_back(item.first_frame + times.frame_at(start + double(t) * step));
}

void choose_frames(const ClipOptions& clip, const ItemShape& item, const Place& place,
                   ClipPlan& plan) {
  if (clip.fps > 0)
    choose_frames_by_time(clip, item, place, plan);
  else
    choose_frames_by_index(clip, item, place, plan);
}

void apply_control(const ClipOptions& clip, uint64_t seed, int64_t position, ClipPlan& plan) {
  if (clip.frames == "clip") return;
  Rng rng = clip_rng(seed, Stream::kClip, position, plan.attempt, 1);
  if (clip.frames == "single") {
    const int64_t frame = plan.frames[rng.below(plan.frames.size())];
    std::fill(plan.frames.begin(), plan.frames.end(), frame);
    return;
  }
  for (size_t i = plan.frames.size(); i > 1; --i)
    std::swap(plan.frames[i - 1], plan.frames[rng.below(i)]);
}

// A square of the short side: the one in the middle, or one of several along the long side.
media::CropRect square(const ItemShape& item, int64_t view = 0, int64_t views = 1) {
  const double side = std::min(item.width, item.height);
  const double share = views == 1 ? 0.5 : double(view) / double(views - 1);
  return {(item.width - side) * share, (item.height - side) * share, side, side};
}

// Inception-style crop, as in torchvision's RandomResizedCrop: area share and log-uniform aspect,
// ten tries, then the centre with the nearest allowed aspect.
media::CropRect random_resized(const RandomResizedCropOptions& o, const ItemShape& item, Rng& rng) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = item.width * item.height * rng.uniform(o.scale[0], o.scale[1]);
    const double ratio = std::exp(rng.uniform(std::log(o.ratio[0]), std::log(o.ratio[1])));
    const double w = std::round(std::sqrt(area * ratio)), h = std::round(std::sqrt(area / ratio));
    if (w < 1 || h < 1 || w > item.width || h > item.height) continue;
    const double x = std::floor(rng.uniform() * (item.width - w + 1));
    const double y = std::floor(rng.uniform() * (item.height - h + 1));
    return {std::min(x, item.width - w), std::min(y, item.height - h), w, h};
  }
  double w = item.width, h = item.height;
  if (w / h < o.ratio[0]) h = std::round(w / o.ratio[0]);
  if (w / h > o.ratio[1]) w = std::round(h * o.ratio[1]);
  return {std::floor((item.width - w) / 2), std::floor((item.height - h) / 2), w, h};
}

// VideoMAE's GroupMultiScaleCrop (fix_crop, more_fix_crop, max_distort 1): width and height from
// neighbouring scales of the short side, at one of 13 fixed offsets (corners, centre, edge middles,
// quarter points). Sides within two pixels of the clip's are made equal to it, as there, but never
// larger than the picture.
media::CropRect multi_scale(const std::vector<double>& scales, int64_t size, const ItemShape& item,
                            Rng& rng) {
  const double side = std::min(item.width, item.height);
  const auto length = [&](double scale, double most) {
    const double scaled = std::floor(side * scale);
    const bool is_near = std::abs(scaled - double(size)) < 3;
    return std::max(1.0, std::min(is_near ? double(size) : scaled, std::floor(most)));
  };
  std::vector<std::pair<double, double>> sizes;
  for (size_t i = 0; i < scales.size(); ++i)
    for (size_t j = 0; j < scales.size(); ++j)
      if (std::max(i, j) - std::min(i, j) <= 1)
        sizes.emplace_back(length(scales[j], item.width), length(scales[i], item.height));
  const auto [w, h] = sizes[rng.below(sizes.size())];
  static constexpr int kOffsets[13][2] = {{0, 0}, {4, 0}, {0, 4}, {4, 4}, {2, 2}, {0, 2}, {4, 2},
                                          {2, 4}, {2, 0}, {1, 1}, {3, 1}, {1, 3}, {3, 3}};
  const auto& offset = kOffsets[rng.below(13)];
  return {offset[0] * std::floor((item.width - w) / 4),
          offset[1] * std::floor((item.height - h) / 4), w, h};
}

}  // namespace

void ClipOptions::bind(config::Binder& b) {
  b.key("num_frames", num_frames, "frames in a clip").range(1, 4096);
  b.key("sampling_rate", sampling_rate, "every n-th frame of the video").range(1, 10000);
  b.key("fps", fps, "frames a second that sampling_rate counts; 0 is the video's own frames")
      .range(0, 10000);
  b.key("size", size, "pixels, square").range(8, 4096);
  b.choice("frames", frames, {"clip", "single", "shuffled"},
           "clip; or a control: one frame repeated, or in random order");
  b.choice("filter", filter, {"bilinear", "bicubic"}, "resampling, antialiased");
  b.choice("sample_by", sample_by, {"item", "duration"},
           "what the order runs over: items, or windows of window_s seconds of them");
  b.key("window_s", window_s, "seconds, with sample_by: duration").range(0.01, 1e7);
  b.choice(
      "damaged", damaged, {"replace", "keep"},
      "training clips with pictures that the decoder patched up: another clip, or as they are");
  b.choice("loop_filter", loop_filter, {"exact", "skip_unreferenced"},
           "exact; or leave deblocking out of frames that no other refers to: other pixels");
}

void ViewOptions::bind(config::Binder& b) {
  b.key("temporal", temporal, "stretches of each sample, from its start to its end").range(1, 1000);
  b.key("spatial", spatial, "squares of each, from the left or top to the right or bottom")
      .range(1, 100);
}

int64_t window_count(double duration_s, int64_t frame_count, double window_s) {
  // What is a thousandth short of a window is one: durations are rounded.
  const double windows = std::floor(duration_s / window_s + 1e-3);
  return int64_t(std::clamp(windows, 1.0, double(std::max<int64_t>(1, frame_count))));
}

void plan_training_clip(const ClipOptions& clip, const AugmentOptions& augment, uint64_t seed,
                        const ItemShape& item, ClipPlan& plan) {
  const int64_t first = plan.position / augment.repeats * augment.repeats;
  Rng start = clip_rng(seed, Stream::kClip, first, plan.attempt);
  choose_frames(clip, item, {start.uniform()}, plan);
  apply_control(clip, seed, first, plan);
  Rng crop = clip_rng(seed, Stream::kCrop, plan.position, plan.attempt);
  if (!augment.random_resized_crop.scale.empty())
    plan.crop = random_resized(augment.random_resized_crop, item, crop);
  else if (!augment.multi_scale_crop.empty())
    plan.crop = multi_scale(augment.multi_scale_crop, clip.size, item, crop);
  else
    plan.crop = square(item);
  plan.flip = augment.flip > 0 &&
              clip_rng(seed, Stream::kFlip, plan.position, plan.attempt).uniform() < augment.flip;
  plan.augment = plan_augment(augment, clip.size, seed, plan.position, plan.attempt);
}

void plan_evaluation_clip(const ClipOptions& clip, const ViewOptions& views, uint64_t seed,
                          const ItemShape& item, ClipPlan& plan) {
  choose_frames(clip, item, {std::nullopt, plan.view / views.spatial, views.temporal}, plan);
  apply_control(clip, seed, plan.position, plan);
  plan.crop = square(item, plan.view % views.spatial, views.spatial);
  plan.flip = false;
  plan.augment = {};
}

}  // namespace keiko::data
