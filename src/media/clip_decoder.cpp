#include "media/clip_decoder.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/machine.h"

namespace keiko::media {
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
  return frames_.decode(
      table, path, frames, [&]() -> FrameDecoder& { return decoder_for(table, loop_filter); },
      receive);
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
