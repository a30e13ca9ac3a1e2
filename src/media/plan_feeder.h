// Carries out a decode plan: packets from where they lie into a decoder, and the wanted frames out.
//
// Where packets come from and which decoder takes them is the caller's; that a decoder starts
// afresh where the plan says so, and which of its frames are the wanted ones, is said here once.

#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/env.h"
#include "media/decode_plan.h"
#include "media/demux.h"
#include "media/frame_decoder.h"
#include "media/packet_table.h"

namespace keiko::media {

// Packets found by their ordinals, which are asked for in ascending order.
class PacketSource {
 public:
  virtual ~PacketSource() = default;
  struct Packet {
    std::span<const uint8_t> bytes;     // valid until the next call
    const AVPacket* demuxed = nullptr;  // what travels beside the bytes; null with direct reads
  };
  // Throws Error(kData) when the file ends before the packet, Error(kIo).
  virtual Packet get(uint32_t ordinal) = 0;
};

// Counts packets from the start of the file through libavformat: slow, and exact for every
// container. Not thread-safe. `table` and `path` outlive it.
class DemuxedPackets : public PacketSource {
 public:
  DemuxedPackets(Env* env, const PacketTable& table, const std::string& path)
      : demuxer_(env, path, table.stream.stream_index), path_(path) {}
  Packet get(uint32_t ordinal) override;
  // Of the packets that were passed over or given so far.
  int64_t packets_read() const { return next_; }
  int64_t bytes_read() const { return bytes_; }

 private:
  Demuxer demuxer_;
  const std::string& path_;
  const AVPacket* packet_ = nullptr;
  uint32_t next_ = 0;
  int64_t bytes_ = 0;
};

// Tells the frames of a plan among all that come out of a decoder: by the packet that a frame comes
// from, and by its turn among the frames of that packet.
class WantedFrames {
 public:
  // `frames`: as in DecodePlan. `table` outlives this.
  WantedFrames(const PacketTable& table, std::span<const uint32_t> frames);
  // The place in `frames` of a frame that came out, -1 when it is none of them. To be asked once
  // for every frame that comes out, in order.
  int64_t place_of(uint32_t ordinal);

 private:
  struct Wanted {
    uint32_t packet, turn;
    int64_t place;
  };
  const PacketTable& table_;
  std::vector<Wanted> wanted_;                    // ascending by packet and turn
  std::unordered_map<uint32_t, uint32_t> turns_;  // frames that came from a packet so far
};

// What becomes of the frames that are decoded and not wanted. Hiding them keeps a GPU from copying
// them out of its decoder; what a hidden packet brings to be shown later must not be hidden
// (may_be_hidden).
enum class Unwanted { kComeOut, kHidden };

// Feeds the plan's packets until `is_done` or there are no more. `next_decoder` gives the decoder
// to start with, and a fresh one at every later start when the table allows no reuse; each stays
// valid until the next is asked for. `take` gets every frame that comes out.
struct FedPlan {
  int64_t packets = 0;     // fed
  int64_t complaints = 0;  // of the decoders about them
};
FedPlan feed_plan(const PacketTable& table, const DecodePlan& plan, PacketSource& source,
                  const std::function<FrameDecoder&()>& next_decoder,
                  const FrameDecoder::Receive& take, const std::function<bool()>& is_done,
                  Unwanted unwanted = Unwanted::kComeOut);

}  // namespace keiko::media
