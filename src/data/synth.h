// The embedded data set: short clips whose class is the direction of motion.
//
// One frame says nothing of the class, and shuffling frames destroys most of it: what a model
// learns here it learned from motion. `drift`: a smooth random texture pans over the whole frame
// and wraps around. `sprites`, harder: a textured patch moves over a still textured background,
// wrapped; there may be several, and others beside them whose motion says nothing.

#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::data {

struct SynthOptions {
  std::string task = "drift";  // or "sprites"
  // Of the task sprites: patches that all move in the direction of the class, each with a texture
  // and a start of its own. Square and bright; 3/8 of the side wide when alone, else 1/4.
  int64_t sprites = 1;
  // Of the task sprites: patches beneath those, each moving at the same speed in a direction of its
  // own that is drawn without looking at the class. Round, dark and of weaker texture.
  int64_t distractors = 0;
  std::string out;       // folder; gets train/CLASS/NNNNNN.mp4 and test/CLASS/NNNNNN.mp4
  int64_t train = 4000;  // clips
  int64_t test = 1000;
  int64_t size = 32;    // pixels, square, even, at least 16
  int64_t frames = 16;  // of each clip
  int64_t seed = 1;
  int64_t speed = 2;  // pixels a frame along each axis that moves
  int crf = 20;       // x264 quality
  int threads = 1;
};

// The eight classes, in label order: "east", "north", ...
const std::vector<std::string>& synth_class_names();

// Luma of one clip, frames one after another: a function of what to draw (all options but out,
// train, test, crf and threads) and index alone. The clip's class is index % 8. A longer clip
// starts with the frames of a shorter one; beside other patches, a
// distractor more changes only pixels that it covers.
std::vector<uint8_t> synth_clip(const SynthOptions& options, int64_t index);

// Writes both splits. Test clips have other indices than training clips, so none is in both.
// Throws Error(kUsage) for impossible options, Error(kIo).
void write_synth(Env* env, const SynthOptions& options,
                 const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace keiko::data
