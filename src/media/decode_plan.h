// Which packets to read and feed so that exactly the wanted frames come out.
//
// A plan is plain data: made from the packet table alone, printable, testable without a decoder.
// It feeds no packet that is known not to be needed, and keeps every wanted frame bit-exact to
// sequential decoding.

#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "media/packet_table.h"

namespace keiko::media {

struct ByteRange {
  int64_t offset;  // bytes from the start of the file or shard
  int64_t size;    // bytes, > 0
};

struct DecodePlan {
  std::vector<ByteRange> reads;    // coalesced, ascending; empty when bytes come from the demuxer
  std::vector<uint32_t> packets;   // ordinals in decode order; what is absent is never decoded
  std::vector<uint32_t> restarts;  // indices into `packets` before which the decoder is restarted
  std::vector<uint32_t> frames;    // presentation indices to keep, ascending, unique
  int64_t dropped = 0;             // droppable packets inside the runs that are not fed
};

// Plans the decoding of `frames` (presentation indices, any order, repeats allowed). Reads that are
// at most `max_gap` bytes apart are made one.
// The table must be complete (complete_table). Cost: O(packets fed). Throws Error(kData) naming the
// index when one is outside [0, table.frame_count()).
DecodePlan plan_decode(const PacketTable& table, std::span<const int64_t> frames,
                       int64_t max_gap = 128 << 10);

}  // namespace keiko::media
