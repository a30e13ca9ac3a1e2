// The frames of one clip out of whatever decoder is given: plan, read, feed, and tell the wanted
// ones.
//
// What CPU and GPU decoding share, so that they cannot differ in which frames a clip holds.

#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/env.h"
#include "base/open_files.h"
#include "media/frame_decoder.h"
#include "media/packet_table.h"
#include "media/plan_feeder.h"

namespace keiko::media {

// What one clip cost.
struct ClipCost {
  int64_t opens = 0;       // containers opened (0 with direct reads)
  int64_t file_opens = 0;  // files opened (0 when the file was read shortly before)
  int64_t reads = 0;       // file reads
  int64_t bytes = 0;       // bytes read
  int64_t packets_decoded = 0;
  int64_t packets_dropped = 0;
  int64_t complaints = 0;  // packets that the decoder refused, frames that it reported damaged
  double decode_s = 0;     // reading and decoding
  double convert_s = 0;    // pixels
};

// Not thread-safe.
class ClipFrames {
 public:
  // `env` reads the files and outlives this. The 32 files read last stay open.
  explicit ClipFrames(Env* env) : env_(env), files_(env, kMostFiles) {}

  // Gets each wanted frame once, in presentation order; the frame is valid during the call.
  using Receive = std::function<void(int64_t index, const AVFrame& frame)>;

  // Decodes `frames` (presentation indices, any order, repeats allowed) with the decoders that
  // `next_decoder` gives (feed_plan says when; it has been restarted). Damage that a decoder
  // patched up is only counted. Throws Error(kData) naming file and frame when one does not come
  // out, Error(kIo) when the file cannot be read.
  ClipCost decode(const PacketTable& table, const std::string& path,
                  std::span<const int64_t> frames,
                  const std::function<FrameDecoder&()>& next_decoder, const Receive& receive,
                  Unwanted unwanted = Unwanted::kComeOut);

 private:
  static constexpr size_t kMostFiles = 32;

  Env* env_;
  OpenFiles files_;
  std::vector<uint8_t> bytes_;
};

}  // namespace keiko::media
