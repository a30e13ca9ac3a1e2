// Which frames, which crop, mirrored or not: the identity of one sample, before anything is read.
//
// A plan is a pure function of (seed, position) and of what the catalogue says of the item. It
// holds all randomness of the data side, so that any sample of any past step can be rebuilt.

#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "config/binder.h"
#include "data/frame_times.h"
#include "media/pixels.h"

namespace keiko::data {

struct ClipOptions {
  int64_t num_frames = 16;
  int64_t sampling_rate = 4;  // every n-th frame
  double fps = 0;             // of the frames that sampling_rate counts; 0: the video's own frames
  int64_t size = 224;         // pixels, square
  std::string frames = "clip";  // "clip", or a control: "single" (one frame repeated), "shuffled"
  std::string filter = "bilinear";
  std::string sample_by = "item";  // or "duration": windows of window_s seconds of each item
  double window_s = 10;
  std::string damaged = "replace";    // or "keep": clips whose pictures the decoder patched up
  std::string loop_filter = "exact";  // or "skip_unreferenced": faster, other pixels

  void bind(config::Binder& b);
};

struct RandomResizedCropOptions {
  std::vector<double> scale;  // [low, high] share of the area; empty: off
  std::vector<double> ratio = {0.75, 1.3333333333333333};  // width over height

  void bind(config::Binder& b);
};

struct AugmentOptions {
  std::vector<double> multi_scale_crop;  // scales of the short side; empty: off
  RandomResizedCropOptions random_resized_crop;
  double flip = 0;  // probability of a mirrored clip

  void bind(config::Binder& b);
};

struct ClipPlan {
  int64_t position = 0;   // in the sample stream; in evaluation the item's index
  uint32_t data_set = 0;  // of the mixture
  uint64_t epoch = 0;
  uint64_t item = 0;
  uint64_t window = 0;   // of the item; 0 unless sample_by is duration
  uint32_t attempt = 0;  // > 0: a replacement for a bad sample
  int32_t label = -1;
  std::vector<int64_t> frames;  // presentation indices of the video, num_frames of them
  media::CropRect crop;
  bool flip = false;
};

// What a plan needs to know of an item.
struct ItemShape {
  int64_t first_frame = 0;
  int64_t frame_count = 0;       // > 0
  double width = 0, height = 0;  // display pixels
  // Of the item's frames. Null when frames are counted (clip.fps = 0) and the window is the item.
  const FrameTimes* times = nullptr;
  // Where the clip starts (training), or lies in the middle of (evaluation): seconds from the
  // item's first frame, 0 <= start < end.
  double window_start_s = 0, window_end_s = std::numeric_limits<double>::infinity();
};

// How many windows of `window_s` seconds an item is: as many as fit, at least one, and no more than
// it has frames. What is left over belongs to the last one.
int64_t window_count(double duration_s, int64_t frame_count, double window_s);

// Fills frames, crop and flip for training: random start, random crop, random flip. `position` and
// `attempt` must be set. A clip starts in its window and may reach over the window's end, never
// over the item's. A video shorter than the clip gets a smaller stride, and under num_frames frames
// its last one repeats; with clip.fps its frames are spread over the clip instead.
void plan_training_clip(const ClipOptions& clip, const AugmentOptions& augment, uint64_t seed,
                        const ItemShape& item, ClipPlan& plan);

// The same for evaluation: the middle of the window, the centre square, not mirrored. The controls
// (single, shuffled) still draw from (seed, item).
void plan_evaluation_clip(const ClipOptions& clip, uint64_t seed, const ItemShape& item,
                          ClipPlan& plan);

}  // namespace keiko::data
