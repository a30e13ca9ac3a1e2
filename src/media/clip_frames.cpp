#include "media/clip_frames.h"

#include <algorithm>

#include "base/error.h"
#include "base/machine.h"
#include "media/decode_plan.h"

namespace keiko::media {
namespace {

// The packets of a plan, all read at once: one read or few for a clip.
class PlannedPackets : public PacketSource {
 public:
  PlannedPackets(OpenFiles& files, const PacketTable& table, const DecodePlan& plan,
                 const std::string& path, std::vector<uint8_t>& buffer, ClipCost& cost)
      : table_(table), plan_(plan), buffer_(buffer) {
    int64_t total = 0;
    for (const ByteRange& range : plan.reads) {
      starts_.push_back(total);
      total += range.size;
    }
    const int64_t opens = files.opens();
    try {
      const ReadableFile& file = files.get(path);
      // Before memory is taken for it: an index may claim a file of any size.
      if (!plan.reads.empty() && plan.reads.back().offset > file.size() - plan.reads.back().size)
        fail(ErrorKind::kData, "{}: ends at byte {}, but its packets were indexed up to byte {}",
             path, file.size(), plan.reads.back().offset + plan.reads.back().size);
      buffer_.resize(size_t(total));
      for (size_t i = 0; i < plan.reads.size(); ++i)
        file.read(plan.reads[i].offset, {buffer_.data() + starts_[i], size_t(plan.reads[i].size)});
    } catch (...) {
      files.forget(path);
      throw;
    }
    cost.file_opens += files.opens() - opens;
    cost.reads += int64_t(plan.reads.size());
    cost.bytes += total;
  }

  Packet get(uint32_t ordinal) override {
    const int64_t position = table_.position[ordinal];
    const auto after =
        std::upper_bound(plan_.reads.begin(), plan_.reads.end(), position,
                         [](int64_t p, const ByteRange& range) { return p < range.offset; });
    const size_t i = size_t(after - plan_.reads.begin()) - 1;
    const uint8_t* first = buffer_.data() + starts_[i] + (position - plan_.reads[i].offset);
    return {{first, table_.size[ordinal]}, nullptr};
  }

 private:
  const PacketTable& table_;
  const DecodePlan& plan_;
  std::vector<uint8_t>& buffer_;
  std::vector<int64_t> starts_;
};

}  // namespace

ClipCost ClipFrames::decode(const PacketTable& table, const std::string& path,
                            std::span<const int64_t> frames,
                            const std::function<FrameDecoder&()>& next_decoder,
                            const Receive& receive, Unwanted unwanted) {
  ClipCost cost;
  const double start = monotonic_s();
  const DecodePlan plan = plan_decode(table, frames);
  WantedFrames wanted(table, plan.frames);
  std::vector<bool> seen(plan.frames.size());
  size_t missing = seen.size();
  const auto feed = [&](PacketSource& source) {
    const FedPlan fed = feed_plan(
        table, plan, source, next_decoder,
        [&](uint32_t ordinal, const AVFrame& frame) {
          const int64_t place = wanted.place_of(ordinal);
          if (place < 0 || seen[size_t(place)]) return;
          seen[size_t(place)] = true;
          --missing;
          receive(plan.frames[size_t(place)], frame);
        },
        [&] { return missing == 0; }, unwanted);
    cost.packets_decoded = fed.packets;
    cost.complaints = fed.complaints;
  };
  if (table.direct_read) {
    PlannedPackets packets(files_, table, plan, path, bytes_, cost);
    feed(packets);
  } else {
    DemuxedPackets packets(env_, table, path);
    feed(packets);
    cost.opens = cost.file_opens = 1;
    cost.reads = packets.packets_read();
    cost.bytes = packets.bytes_read();
  }
  cost.packets_dropped = plan.dropped;
  cost.decode_s = monotonic_s() - start;
  for (size_t i = 0; i < seen.size(); ++i)
    if (!seen[i])
      fail(ErrorKind::kData, "{}: frame {} (packet {}) did not come out of the {} decoder", path,
           plan.frames[i], table.frame_packet[plan.frames[i]], table.stream.codec);
  return cost;
}

}  // namespace keiko::media
