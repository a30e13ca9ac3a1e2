#include "media/clip_decoder.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/machine.h"
#include "media/clip_views.h"

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
  ClipViews views(request);
  if (converters_.size() < views.count()) converters_.resize(views.count());
  const int64_t stride = request.channel_stride;
  double convert_s = 0;
  ClipCost cost = decode_frames(
      *request.table, *request.path, request.frames,
      [&](int64_t index, const AVFrame& frame) {
        const double start = monotonic_s();
        views.place(
            index,
            [&](size_t view, const PixelGeometry& geometry, uint8_t* out) {
              converters_[view].convert(frame, geometry, out, out + stride, out + 2 * stride,
                                        request.size);
            },
            [](uint8_t* to, const uint8_t* from, size_t bytes) { std::memcpy(to, from, bytes); });
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
