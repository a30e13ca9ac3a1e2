// What a pack will hold, decided before any work: its options, and which items go to which shard.
//
// The plan is a file, DIR/plan.json, so that every rank and every later run does the same work; a
// run with other options is refused.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/catalogue.h"

namespace keiko::data {

// The options that decide a pack's content.
struct PackChoice {
  std::string purpose = "speed";           // "speed", "size" or "exact"
  int short_side = 256;                    // pixels; 0 keeps the size; never enlarges
  double frames_per_second = 0;            // at most; 0 keeps every frame
  int crf = 18;                            // x264 quality, 0 best, 51 worst
  int gop = 16;                            // frames from key frame to key frame, at most
  int64_t shard_bytes = int64_t{1} << 30;  // of source video that a shard takes, about

  bool is_exact() const { return purpose == "exact"; }
};

// The choice that `purpose` makes when nothing else is said. Throws Error(kUsage) for another word.
PackChoice default_choice(const std::string& purpose);

struct PackPlan {
  PackChoice choice;
  std::string catalogue;             // as given
  uint64_t catalogue_hash = 0;       // Catalogue::hash
  std::vector<int64_t> first_items;  // of each shard, ascending from 0
  int64_t item_count = 0;

  int64_t shard_count() const { return int64_t(first_items.size()); }
  int64_t last_item(int64_t shard) const {  // one past
    return shard + 1 < shard_count() ? first_items[size_t(shard + 1)] : item_count;
  }
};

// Cuts the catalogue's items, in their order, into shards. Cost: reads every video's record.
PackPlan make_pack_plan(const Catalogue& catalogue, const PackChoice& choice);

// DIR/plan.json. read_pack_plan throws Error(kData) when the file is damaged.
void write_pack_plan(Env* env, const std::string& folder, const PackPlan& plan);
PackPlan read_pack_plan(Env* env, const std::string& folder);

// Throws Error(kUsage) naming every option in which a plan that is there differs from what is
// wanted now.
void check_same_plan(const std::string& folder, const PackPlan& there, const Catalogue& catalogue,
                     const PackChoice& wanted);

// "shard-00012"
std::string shard_name(int64_t shard);
// "00000012-source_name": the member's name without suffix; letters, digits, `.`, `_`, `-` only.
std::string member_name(int64_t item, const std::string& source_path);

// Which frames of an item stay when at most `frames_per_second` are wanted (0: all), and when each
// is shown. Frame k is the last one whose time, rounded to a tick, is not after k / rate; a source
// no faster than that keeps every frame.
struct FrameChoice {
  std::vector<int64_t> frames;  // presentation indices of the video, ascending
  std::vector<int64_t> pts;     // ticks, ascending from 0
  int64_t time_base_num = 1, time_base_den = 25;
  int64_t rate_num = 25, rate_den = 1;  // frames per second, on average
};
FrameChoice choose_frames(const media::PacketTable& table, const Item& item,
                          double frames_per_second);

}  // namespace keiko::data
