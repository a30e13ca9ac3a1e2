// One item of a catalogue made into one member of a pack: an ordinary small video file.

#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "base/env.h"
#include "data/catalogue.h"
#include "data/pack_plan.h"

namespace keiko::data {

// How near the member's pictures are to the source's, scaled the same way; luma. Sums, so that they
// add up over items.
struct PackQuality {
  int64_t items = 0, frames = 0;  // compared
  double squared_error = 0;       // sum over frames of the mean squared error
  double similarity = 0;          // sum over frames of SSIM

  void add(const PackQuality& other);
};

// What was done, for the final table. Counts add up over items.
struct PackTotals {
  int64_t items = 0;
  int64_t source_bytes = 0;        // of the files, in proportion to the frames taken
  int64_t source_video_bytes = 0;  // of that, packets of the video stream
  int64_t packed_bytes = 0;        // of the members
  int64_t source_frames = 0, packed_frames = 0;
  int64_t resized = 0;       // items whose size changed
  int64_t fewer_frames = 0;  // items of which frames were left out
  int64_t fewer_bits = 0;    // items of more than 8 bits a sample
  int64_t less_chroma = 0;   // items with more chroma than 4:2:0
  int64_t turned = 0;        // items with a rotation, which is written and not applied
  PackQuality quality;

  void add(const PackTotals& other);
};

// A finished member, as its record DIR/parts/NAME.json says.
struct PackPart {
  int64_t item = 0;
  std::string skipped;  // why there is no member; empty when there is one
  std::string file;     // name within DIR/parts and within the shard
  int64_t bytes = 0;
  uint64_t hash = 0;        // xxh3 of the member's bytes
  int64_t first_frame = 0;  // of the item, within the member
  int64_t frame_count = 0;
  PackTotals totals;
};

// Makes the member of one item and publishes it as `parts`/NAME.mp4 (or .mkv), without the record.
// Compares up to 64 of its frames with the source when `with_quality`. Memory: a few frames.
// `working`, unless empty, is called for every frame or packet, from the calling thread. Throws
// Error(kData) when the source is damaged or cannot be packed this way, and Error(kIo).
PackPart make_member(Env* env, const Video& video, const Item& item, int64_t index,
                     const PackChoice& choice, const std::string& parts, bool with_quality,
                     const std::function<void()>& working = {});

void write_part(Env* env, const std::string& parts, const std::string& name, const PackPart& part);
// False when there is no whole record, or its member is missing.
bool read_part(Env* env, const std::string& parts, const std::string& name, PackPart& part);

// The totals as JSON text and back: shards keep them in shard-NNNNN.json.
std::string totals_to_text(const PackTotals& totals);
PackTotals totals_from_text(const std::string& text);

}  // namespace keiko::data
