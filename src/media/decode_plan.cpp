#include "media/decode_plan.h"

#include <algorithm>

#include "base/error.h"

namespace keiko::media {
namespace {

// The last packet to feed for a frame: its own, and those right behind it that give no frame of
// their own (the second field of a picture). `gives_frame` is empty when every packet gives one.
uint32_t last_packet_of(const PacketTable& table, uint32_t packet,
                        const std::vector<bool>& gives_frame) {
  if (gives_frame.empty()) return packet;
  uint32_t last = packet;
  while (last + 1 < table.size.size() && !(table.flags[last + 1] & kRandomAccess) &&
         !gives_frame[last + 1])
    ++last;
  return last;
}

// The latest packet from which decoding gives this frame exactly. Leading pictures (shown before
// the random-access point they follow) need the point before it. `shown_at` (packet -> presentation
// index) tells where pts may be missing; empty when every packet has one.
uint32_t start_of(const PacketTable& table, uint32_t frame, const std::vector<uint32_t>& shown_at) {
  const uint32_t packet = table.frame_packet[frame];
  for (uint32_t p = packet + 1; p-- > 0;) {
    if (!(table.flags[p] & kRandomAccess)) continue;
    if (p == packet) return p;
    if (!shown_at.empty()) {
      if (shown_at[p] != UINT32_MAX && shown_at[p] < frame) return p;
      continue;
    }
    if (table.pts[p] == kNoTime || table.pts[packet] == kNoTime ||
        table.pts[p] <= table.pts[packet])
      return p;
  }
  return 0;
}

}  // namespace

DecodePlan plan_decode(const PacketTable& table, std::span<const int64_t> frames, int64_t max_gap) {
  DecodePlan plan;
  for (int64_t frame : frames) {
    if (frame < 0 || frame >= table.frame_count())
      fail(ErrorKind::kData, "frame {} is outside the video's {} frames", frame,
           table.frame_count());
    plan.frames.push_back(uint32_t(frame));
  }
  std::sort(plan.frames.begin(), plan.frames.end());
  plan.frames.erase(std::unique(plan.frames.begin(), plan.frames.end()), plan.frames.end());

  // One run of packets per frame; runs that touch become one.
  struct Run {
    uint32_t first, last;
  };
  std::vector<Run> runs;
  std::vector<uint32_t> wanted;
  std::vector<bool> gives_frame;
  std::vector<uint32_t> shown_at;
  if (table.mapped_by_decoding) {
    gives_frame.resize(table.size.size());
    shown_at.assign(table.size.size(), UINT32_MAX);
    for (uint32_t f = 0; f < table.frame_packet.size(); ++f) {
      gives_frame[table.frame_packet[f]] = true;
      shown_at[table.frame_packet[f]] = f;
    }
  }
  for (uint32_t frame : plan.frames) {
    const uint32_t packet = table.frame_packet[frame];
    runs.push_back({start_of(table, frame, shown_at), last_packet_of(table, packet, gives_frame)});
    wanted.push_back(packet);
  }
  std::sort(wanted.begin(), wanted.end());
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  std::vector<Run> merged;
  for (const Run& run : runs) {
    if (!merged.empty() && run.first <= merged.back().last + 1)
      merged.back().last = std::max(merged.back().last, run.last);
    else
      merged.push_back(run);
  }

  for (const Run& run : merged) {
    plan.restarts.push_back(uint32_t(plan.packets.size()));
    for (uint32_t p = run.first; p <= run.last; ++p) {
      if ((table.flags[p] & kDroppable) && !std::binary_search(wanted.begin(), wanted.end(), p)) {
        ++plan.dropped;
        continue;
      }
      plan.packets.push_back(p);
    }
  }
  if (!table.direct_read) return plan;

  std::vector<ByteRange> spans;
  for (uint32_t p : plan.packets) spans.push_back({table.position[p], int64_t(table.size[p])});
  std::sort(spans.begin(), spans.end(),
            [](const ByteRange& a, const ByteRange& b) { return a.offset < b.offset; });
  for (const ByteRange& span : spans) {
    if (!plan.reads.empty() &&
        span.offset <= plan.reads.back().offset + plan.reads.back().size + max_gap) {
      ByteRange& back = plan.reads.back();
      back.size = std::max(back.size, span.offset + span.size - back.offset);
    } else {
      plan.reads.push_back(span);
    }
  }
  return plan;
}

}  // namespace keiko::media
