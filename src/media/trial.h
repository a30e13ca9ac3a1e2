// Finds out by decoding what a file's bytes do not tell: which frames come out, and which shortcuts
// keep every one of them bit-exact.
//
// The truth is one decode from the first packet to the last, as the ffmpeg command line does it. A
// random-access point, or a droppable packet, counts only if decoding with it gives the same
// pixels.

#pragma once
#include <string>
#include <vector>

#include "base/env.h"
#include "media/packet_table.h"

namespace keiko::media {

// What decoding a whole file in order showed, frame by frame in presentation order.
struct Sighting {
  std::vector<uint32_t> packet;  // ordinal of the packet that the frame came from
  std::vector<uint64_t> hash;    // frame_hash of its pixels
  bool is_numbered = true;       // every frame said which packet it came from
  int64_t complaints = 0;        // packets refused and frames reported damaged
};

// Decodes everything once. `table` needs its packet columns. Throws Error(kData), Error(kIo).
Sighting watch_decoder(Env* env, const std::string& path, const PacketTable& table);

// Decodes again the way clips are decoded: from every random-access point the frames that start
// there, and with droppable packets left out (one half of them, then the other, so that each
// droppable frame is seen too). A point whose frames differ from `truth` loses its flag; if leaving
// packets out changes a frame, skipping is turned off with the reason. The table must be complete.
// Returns true when nothing had to be taken back. Cost: a few decodes of the file.
bool try_shortcuts(Env* env, const std::string& path, const Sighting& truth, PacketTable& table);

// Proves a scanned table by decoding: every frame comes out, undamaged, from the packet that the
// table says, and every shortcut keeps it bit-exact (those that do not are taken back). Throws
// Error(kData) saying what is damaged. Cost: a few decodes of the file.
void verify_video(Env* env, const std::string& path, PacketTable& table);

}  // namespace keiko::media
