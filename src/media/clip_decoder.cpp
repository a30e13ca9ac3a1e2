#include "media/clip_decoder.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/machine.h"
#include "media/plan_feeder.h"

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

FrameDecoder& CpuClipDecoder::decoder_for(const PacketTable& table, LoopFilter loop_filter) {
  const StreamParameters& stream = table.stream;
  if (!table.reuse_off.empty()) {
    alone_ = std::make_unique<FrameDecoder>(stream, loop_filter);
    return *alone_;
  }
  for (auto it = decoders_.begin(); it != decoders_.end(); ++it)
    if (it->loop_filter == loop_filter && it->stream == stream) {
      decoders_.splice(decoders_.begin(), decoders_, it);
      decoders_.front().decoder->restart();
      return *decoders_.front().decoder;
    }
  decoders_.push_front({stream, loop_filter, std::make_unique<FrameDecoder>(stream, loop_filter)});
  if (decoders_.size() > most_contexts_) decoders_.pop_back();
  return *decoders_.front().decoder;
}

ClipCost CpuClipDecoder::decode_frames(const PacketTable& table, const std::string& path,
                                       std::span<const int64_t> frames, const ReceiveFrame& receive,
                                       LoopFilter loop_filter) {
  ClipCost cost;
  const double start = monotonic_s();
  const DecodePlan plan = plan_decode(table, frames);
  WantedFrames wanted(table, plan.frames);
  std::vector<bool> seen(plan.frames.size());
  size_t missing = seen.size();
  const auto feed = [&](PacketSource& source) {
    const FedPlan fed = feed_plan(
        table, plan, source, [&]() -> FrameDecoder& { return decoder_for(table, loop_filter); },
        [&](uint32_t ordinal, const AVFrame& frame) {
          const int64_t place = wanted.place_of(ordinal);
          if (place < 0 || seen[size_t(place)]) return;
          seen[size_t(place)] = true;
          --missing;
          receive(plan.frames[size_t(place)], frame);
        },
        [&] { return missing == 0; });
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

ClipCost CpuClipDecoder::decode(const ClipRequest& request) {
  PixelConverter<float>::Geometry geometry{request.table->stream, request.crop, request.size,
                                           request.size,          request.flip, request.filter};
  std::vector<ClipView> views = {{request.crop, request.flip, request.out}};
  views.insert(views.end(), request.more_views.begin(), request.more_views.end());
  if (converters_.size() < views.size()) converters_.resize(views.size());
  const int64_t plane = int64_t(request.size) * request.size, stride = request.channel_stride;
  double convert_s = 0;
  ClipCost cost = decode_frames(
      *request.table, *request.path, request.frames,
      [&](int64_t index, const AVFrame& frame) {
        const double start = monotonic_s();
        // A frame that the clip shows several times is converted once and copied.
        int64_t first = -1;
        for (size_t t = 0; t < request.frames.size(); ++t) {
          if (request.frames[t] != index) continue;
          for (size_t v = 0; v < views.size(); ++v) {
            uint8_t* out = views[v].out + int64_t(t) * plane;
            if (first < 0) {
              geometry.crop = views[v].crop;
              geometry.flip = views[v].flip;
              converters_[v].convert(frame, geometry, out, out + stride, out + 2 * stride,
                                     request.size);
              continue;
            }
            for (int c = 0; c < 3; ++c)
              std::memcpy(out + c * stride, views[v].out + first * plane + c * stride,
                          size_t(plane));
          }
          if (first < 0) first = int64_t(t);
        }
        convert_s += monotonic_s() - start;
      },
      request.loop_filter);
  // A damaged frame spoils those that refer to it, so a complaint about any packet of the plan
  // counts.
  if (cost.complaints > 0 && !request.allow_concealed)
    fail(ErrorKind::kData,
         "{}: the {} decoder complained {} times about the packets of frames {} to {}: damaged "
         "pictures were patched up",
         *request.path, request.table->stream.codec, cost.complaints,
         *std::min_element(request.frames.begin(), request.frames.end()),
         *std::max_element(request.frames.begin(), request.frames.end()));
  cost.convert_s = convert_s;
  cost.decode_s -= convert_s;
  return cost;
}

}  // namespace keiko::media
