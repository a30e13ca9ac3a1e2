// What is done to a hostile video file: scan, plan, and the pixels of a few random clips.
//
// Shared by the decode target and by the mutated videos, so that both try the same way in.

#pragma once
#include <cstdint>
#include <string>

#include "base/env.h"
#include "media/packet_table.h"

namespace keiko::fuzz {

struct TrialOutcome {
  bool scanned = false;   // scan_video gave a table
  int clips = 0;          // decoded to pixels
  int refused_clips = 0;  // ended with an Error
  int64_t frames = 0;     // in the table
};

// Checks what every table promises (columns of one length, frames that refer to packets). Aborts
// when it does not hold.
void require_sound(const media::PacketTable& table);

// Decodes up to `clips` random clips of at most 4 frames, drawn from `seed`, to small pixels.
// `most_packets` bounds what a clip may cost: plans that feed more are only made, not carried out.
void decode_random_clips(Env* env, const media::PacketTable& table, const std::string& path,
                         uint64_t seed, int clips, size_t most_packets, TrialOutcome& outcome);

// All of it, on a file. Errors are outcomes; anything else ends the process.
TrialOutcome try_video(const std::string& path, uint64_t seed, int clips, size_t most_packets);

}  // namespace keiko::fuzz
