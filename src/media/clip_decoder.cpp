#include "media/clip_decoder.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/machine.h"
#include "media/demux.h"

namespace keiko::media {
namespace {

// The planned packets' bytes, each found by its ordinal.
class PacketBytes {
 public:
  virtual ~PacketBytes() = default;
  struct Bytes {
    std::span<const uint8_t> bytes;
    const AVPacket* demuxed = nullptr;  // what travels beside the bytes
  };
  // Ordinals are asked for in ascending order.
  virtual Bytes get(uint32_t ordinal) = 0;
};

class DirectBytes : public PacketBytes {
 public:
  DirectBytes(OpenFiles& files, const PacketTable& table, const DecodePlan& plan,
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

  Bytes get(uint32_t ordinal) override {
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

// Counts packets from the start of the file: slow, and exact for every container.
class DemuxedBytes : public PacketBytes {
 public:
  DemuxedBytes(Env* env, const PacketTable& table, const std::string& path, ClipCost& cost)
      : demuxer_(env, path, table.stream.stream_index), path_(path), cost_(cost) {
    ++cost.opens;
    ++cost.file_opens;
  }
  Bytes get(uint32_t ordinal) override {
    while (next_ <= ordinal) {
      packet_ = demuxer_.next();
      if (packet_ == nullptr)
        fail(ErrorKind::kData, "{}: ends before packet {}; it changed since it was indexed", path_,
             ordinal);
      ++next_;
      ++cost_.reads;
      cost_.bytes += packet_->size;
    }
    return {{packet_->data, size_t(packet_->size)}, packet_};
  }

 private:
  Demuxer demuxer_;
  std::string path_;
  ClipCost& cost_;
  const AVPacket* packet_ = nullptr;
  uint32_t next_ = 0;
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
  std::unique_ptr<PacketBytes> source;
  if (table.direct_read)
    source = std::make_unique<DirectBytes>(files_, table, plan, path, bytes_, cost);
  else
    source = std::make_unique<DemuxedBytes>(env_, table, path, cost);

  struct Wanted {
    uint32_t packet, turn, frame;
    bool seen = false;
  };
  std::vector<Wanted> wanted;
  for (uint32_t frame : plan.frames)
    wanted.push_back(
        {table.frame_packet[frame], table.frame_turn.empty() ? 0 : table.frame_turn[frame], frame});
  const auto before = [](const Wanted& a, const Wanted& b) {
    return std::pair(a.packet, a.turn) < std::pair(b.packet, b.turn);
  };
  std::sort(wanted.begin(), wanted.end(), before);
  size_t missing = wanted.size();
  std::unordered_map<uint32_t, uint32_t> turns;  // frames that came from a packet so far
  auto take = [&](uint32_t ordinal, const AVFrame& frame) {
    const uint32_t turn = table.frame_turn.empty() ? 0 : turns[ordinal]++;
    const auto found =
        std::lower_bound(wanted.begin(), wanted.end(), Wanted{ordinal, turn, 0}, before);
    if (found == wanted.end() || found->packet != ordinal || found->turn != turn || found->seen)
      return;
    found->seen = true;
    --missing;
    receive(found->frame, frame);
  };

  FrameDecoder* decoder = &decoder_for(table, loop_filter);
  int64_t complaints = -decoder->complaints();
  size_t restart = 0;
  bool fresh = true;
  for (size_t i = 0; i < plan.packets.size() && missing > 0; ++i) {
    if (restart < plan.restarts.size() && plan.restarts[restart] == i) {
      if (!fresh) {
        decoder->drain(take);
        if (table.reuse_off.empty()) {
          decoder->restart();
        } else {
          complaints += decoder->complaints();
          decoder = &decoder_for(table, loop_filter);
        }
      }
      ++restart;
    }
    const uint32_t ordinal = plan.packets[i];
    const PacketBytes::Bytes packet = source->get(ordinal);
    decoder->feed(packet.bytes, ordinal, (table.flags[ordinal] & kDiscard) != 0, take,
                  packet.demuxed);
    ++cost.packets_decoded;
    fresh = false;
  }
  if (missing > 0) decoder->drain(take);
  cost.packets_dropped = plan.dropped;
  cost.complaints = complaints + decoder->complaints();
  cost.decode_s = monotonic_s() - start;
  for (const Wanted& w : wanted)
    if (!w.seen)
      fail(ErrorKind::kData, "{}: frame {} (packet {}) did not come out of the {} decoder", path,
           w.frame, w.packet, table.stream.codec);
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
