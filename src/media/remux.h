// Cuts a stretch of frames out of a video without touching a bit of it: packets are copied from the
// nearest random-access point on, into an MP4, or Matroska where MP4 cannot hold the codec.

#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "base/env.h"
#include "media/packet_table.h"

namespace keiko::media {

struct CutVideo {
  std::string path;           // `stem` and ".mp4" or ".mkv"
  int64_t bytes = 0;          // of the file
  uint32_t first_packet = 0;  // the source's packet that became packet 0
  uint32_t packet_count = 0;
};

// Copies what decoding frames [first_frame, first_frame + frame_count) needs. Frames before the
// first wanted one may come along, because decoding must start somewhere. Times are kept, moved to
// start near 0; where the source has none, frames are a constant rate apart. The copy is published
// under `stem` and a suffix; memory is that of a packet. `working`, unless empty, is called for
// each packet. Throws Error(kData) when neither container takes the packets, Error(kIo).
CutVideo cut_video(Env* env, const PacketTable& table, const std::string& path, int64_t first_frame,
                   int64_t frame_count, const std::string& stem,
                   const std::function<void()>& working = {});

// Which frame of `cut` (the table of the cut file) shows the source's `first_frame`. Throws
// Error(kData) when the `frame_count` frames from there on do not come from the packets that they
// come from in the source.
int64_t locate_cut(const PacketTable& source, int64_t first_frame, int64_t frame_count,
                   const CutVideo& cut, const PacketTable& table_of_cut);

}  // namespace keiko::media
