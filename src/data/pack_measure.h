// What a pack gains: the same clips decoded from the source and from the pack, one thread.

#pragma once
#include <cstdint>

#include "base/env.h"
#include "data/catalogue.h"

namespace keiko::data {

struct ClipSpeed {
  double clips_per_s = 0;                // from the fastest of the rounds of each clip
  double decode_ms = 0, convert_ms = 0;  // of a clip, mean over all rounds
  double packets = 0;                    // decoded for a clip
  double bytes = 0;                      // read for a clip
};

struct PackGain {
  int64_t clips = 0;  // measured on each side
  int64_t stride_of_source = 4,
          stride_of_pack = 4;  // the same time between frames, as near as can be
  ClipSpeed source, pack;
};

// Decodes `clips` clips of 16 frames at stride 4, centre square to 224 pixels, from items spread
// over the pack and from the source items that they come from; `rounds` times, taking turns.
// Throws as ClipDecoder::decode, for a source that is gone in the meantime.
PackGain measure_gain(Env* env, const Catalogue& source, const Catalogue& pack, int64_t clips,
                      int rounds = 3);

}  // namespace keiko::data
