// Which frames, which crop, what is done to the pixels: the identity of one sample, before anything
// is read.
//
// A plan is a pure function of (seed, position) and of what the catalogue says of the item. It
// holds all randomness of the data side, so that any sample of any past step can be rebuilt.

#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "config/binder.h"
#include "data/augment_plan.h"
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

// Several clips of each evaluation sample: `temporal` stretches of it, `spatial` squares of each.
struct ViewOptions {
  int64_t temporal = 1, spatial = 1;

  int64_t count() const { return temporal * spatial; }
  void bind(config::Binder& b);
};

struct ClipPlan {
  int64_t position = 0;   // in the sample stream; in evaluation the sample's index
  int64_t view = 0;       // in evaluation: temporal view * spatial views + spatial view
  uint32_t data_set = 0;  // of the mixture
  uint64_t epoch = 0;
  uint64_t item = 0;
  uint64_t window = 0;   // of the item; 0 unless sample_by is duration
  uint32_t attempt = 0;  // > 0: a replacement for a bad sample
  int32_t label = -1;
  std::vector<float> targets;   // of the item, in the data set's order; NaN: not known
  std::vector<int64_t> frames;  // presentation indices of the video, num_frames of them
  media::CropRect crop;
  bool flip = false;
  AugmentPlan augment;  // after crop, resize and flip
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

// Fills frames, crop, flip and augment for training. `position` and `attempt` must be set. A clip
// starts in its window and may reach over the window's end, never over the item's. A video shorter
// than the clip gets a smaller stride, and under num_frames frames its last one repeats; with
// clip.fps its frames are spread over the clip instead. Frames are drawn for the first position of
// a group of augment.repeats, so that all its views show the same ones; all else for each position.
void plan_training_clip(const ClipOptions& clip, const AugmentOptions& augment, uint64_t seed,
                        const ItemShape& item, ClipPlan& plan);

// The same for evaluation: nothing is augmented. `position` and `view` must be set. One temporal
// view lies in the middle of the window; several begin at its start and end at its end, evenly
// apart. One spatial view is the centre square; several go from the left (the top) to the right
// (the bottom). The controls (single, shuffled) still draw from (seed, item).
void plan_evaluation_clip(const ClipOptions& clip, const ViewOptions& views, uint64_t seed,
                          const ItemShape& item, ClipPlan& plan);

}  // namespace keiko::data
