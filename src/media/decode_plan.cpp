#include "media/decode_plan.h"

#include <algorithm>

#include "base/error.h"

namespace keiko::media {
namespace {

// The latest packet from which decoding gives this frame exactly. Leading pictures (shown before
// the random-access point they follow) need the point before it.
uint32_t start_of(const PacketTable& table, uint32_t frame) {
  if (!table.frame_start.empty()) return table.frame_start[frame];
  const uint32_t packet = table.frame_packet[frame];
  for (uint32_t p = packet + 1; p-- > 0;)
    if ((table.flags[p] & kRandomAccess) && (p == packet || table.pts[p] <= table.pts[packet]))
      return p;
  return 0;
}

// The last packet to feed for a frame: its own, or the second field of its picture.
uint32_t last_of(const PacketTable& table, uint32_t frame) {
  return table.frame_last.empty() ? table.frame_packet[frame] : table.frame_last[frame];
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
  for (uint32_t frame : plan.frames) {
    runs.push_back({start_of(table, frame), last_of(table, frame)});
    wanted.push_back(table.frame_packet[frame]);
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
