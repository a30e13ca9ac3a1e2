#include "media/clip_decoder.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/machine.h"
#include "media/demux.h"

namespace keiko::media {
namespace {

// The planned packets' bytes, each found by its ordinal.
class PacketBytes {
 public:
  virtual ~PacketBytes() = default;
  // Ordinals are asked for in ascending order.
  virtual std::span<const uint8_t> get(uint32_t ordinal) = 0;
};

class DirectBytes : public PacketBytes {
 public:
  DirectBytes(Env* env, const PacketTable& table, const DecodePlan& plan, const std::string& path,
              std::vector<uint8_t>& buffer, ClipCost& cost)
      : table_(table), plan_(plan), buffer_(buffer) {
    int64_t total = 0;
    for (const ByteRange& range : plan.reads) {
      starts_.push_back(total);
      total += range.size;
    }
    buffer_.resize(size_t(total));
    const auto file = env->open(path);
    for (size_t i = 0; i < plan.reads.size(); ++i)
      file->read(plan.reads[i].offset, {buffer_.data() + starts_[i], size_t(plan.reads[i].size)});
    cost.reads += int64_t(plan.reads.size());
    cost.bytes += total;
  }

  std::span<const uint8_t> get(uint32_t ordinal) override {
    const int64_t position = table_.position[ordinal];
    const auto after =
        std::upper_bound(plan_.reads.begin(), plan_.reads.end(), position,
                         [](int64_t p, const ByteRange& range) { return p < range.offset; });
    const size_t i = size_t(after - plan_.reads.begin()) - 1;
    return {buffer_.data() + starts_[i] + (position - plan_.reads[i].offset), table_.size[ordinal]};
  }

 private:
  const PacketTable& table_;
  const DecodePlan& plan_;
  std::vector<uint8_t>& buffer_;
  std::vector<int64_t> starts_;
};

// Counts packets from the start of the file: slow, and exact for every container.
class DemuxedBytes : public PacketBytes {
 public:
  DemuxedBytes(const PacketTable& table, const std::string& path, ClipCost& cost)
      : demuxer_(path, table.stream.stream_index), path_(path), cost_(cost) {
    ++cost.opens;
  }
  std::span<const uint8_t> get(uint32_t ordinal) override {
    while (next_ <= ordinal) {
      packet_ = demuxer_.next();
      if (packet_ == nullptr)
        fail(ErrorKind::kData, "{}: ends before packet {}; it changed since it was indexed", path_,
             ordinal);
      ++next_;
      ++cost_.reads;
      cost_.bytes += packet_->size;
    }
    return {packet_->data, size_t(packet_->size)};
  }

 private:
  Demuxer demuxer_;
  std::string path_;
  ClipCost& cost_;
  const AVPacket* packet_ = nullptr;
  uint32_t next_ = 0;
};

}  // namespace

FrameDecoder& CpuClipDecoder::decoder_for(const StreamParameters& stream) {
  for (auto it = decoders_.begin(); it != decoders_.end(); ++it)
    if (it->first == stream) {
      decoders_.splice(decoders_.begin(), decoders_, it);
      decoders_.front().second->restart();
      return *decoders_.front().second;
    }
  decoders_.emplace_front(stream, std::make_unique<FrameDecoder>(stream));
  if (decoders_.size() > most_contexts_) decoders_.pop_back();
  return *decoders_.front().second;
}

ClipCost CpuClipDecoder::decode_frames(const PacketTable& table, const std::string& path,
                                       std::span<const int64_t> frames,
                                       const ReceiveFrame& receive) {
  ClipCost cost;
  const double start = monotonic_s();
  const DecodePlan plan = plan_decode(table, frames);
  std::unique_ptr<PacketBytes> source;
  if (table.direct_read)
    source = std::make_unique<DirectBytes>(env_, table, plan, path, bytes_, cost);
  else
    source = std::make_unique<DemuxedBytes>(table, path, cost);

  std::vector<std::pair<uint32_t, uint32_t>> wanted;  // packet ordinal, presentation index
  for (uint32_t frame : plan.frames) wanted.emplace_back(table.frame_packet[frame], frame);
  std::sort(wanted.begin(), wanted.end());
  std::vector<bool> seen(wanted.size());
  size_t missing = wanted.size();
  auto take = [&](uint32_t ordinal, const AVFrame& frame) {
    const auto found = std::lower_bound(wanted.begin(), wanted.end(), std::pair(ordinal, 0u));
    if (found == wanted.end() || found->first != ordinal) return;
    const size_t i = size_t(found - wanted.begin());
    if (seen[i]) return;
    seen[i] = true;
    --missing;
    receive(found->second, frame);
  };

  FrameDecoder& decoder = decoder_for(table.stream);
  size_t restart = 0;
  bool fresh = true;
  for (size_t i = 0; i < plan.packets.size() && missing > 0; ++i) {
    if (restart < plan.restarts.size() && plan.restarts[restart] == i) {
      if (!fresh) {
        decoder.drain(take);
        decoder.restart();
      }
      ++restart;
    }
    const uint32_t ordinal = plan.packets[i];
    decoder.feed(source->get(ordinal), ordinal, (table.flags[ordinal] & kDiscard) != 0, take);
    ++cost.packets_decoded;
    fresh = false;
  }
  if (missing > 0) decoder.drain(take);
  cost.packets_dropped = plan.dropped;
  cost.decode_s = monotonic_s() - start;
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!seen[i])
      fail(ErrorKind::kData, "{}: frame {} (packet {}) did not come out of the {} decoder", path,
           wanted[i].second, wanted[i].first, table.stream.codec);
  return cost;
}

ClipCost CpuClipDecoder::decode(const ClipRequest& request) {
  const PixelConverter<float>::Geometry geometry{request.table->stream, request.crop,
                                                 request.size,          request.size,
                                                 request.flip,          request.filter};
  const int64_t plane = int64_t(request.size) * request.size;
  double convert_s = 0;
  ClipCost cost = decode_frames(
      *request.table, *request.path, request.frames, [&](int64_t index, const AVFrame& frame) {
        const double start = monotonic_s();
        // A frame that the clip shows several times is converted once and copied.
        int64_t first = -1;
        for (size_t t = 0; t < request.frames.size(); ++t) {
          if (request.frames[t] != index) continue;
          uint8_t* out = request.out + int64_t(t) * plane;
          if (first < 0) {
            converter_.convert(frame, geometry, out, out + request.channel_stride,
                               out + 2 * request.channel_stride, request.size);
            first = int64_t(t);
            continue;
          }
          for (int c = 0; c < 3; ++c)
            std::memcpy(out + c * request.channel_stride,
                        request.out + first * plane + c * request.channel_stride, size_t(plane));
        }
        convert_s += monotonic_s() - start;
      });
  cost.convert_s = convert_s;
  cost.decode_s -= convert_s;
  return cost;
}

}  // namespace keiko::media
