// One libavcodec decoder, fed with packets by ordinal and giving back frames by the same ordinal.
//
// The ordinal travels as the packet's pts, so a frame always says which packet it came from,
// however the decoder reorders. One thread per decoder: clips run side by side, frames of a clip do
// not.

#pragma once
#include <functional>
#include <span>

#include "media/ffmpeg.h"
#include "media/packet_table.h"

namespace keiko::media {

// A context with the stream's parameters (reorder depth included), not opened yet.
// Throws Error(kData) when this FFmpeg has no such codec.
CodecPointer make_codec_context(const StreamParameters& stream);

// Not thread-safe.
class FrameDecoder {
 public:
  // Gets each frame that comes out, in presentation order, with the ordinal of its packet. The
  // frame is valid during the call only.
  using Receive = std::function<void(uint32_t ordinal, const AVFrame& frame)>;

  // Opens the decoder. Throws Error(kData) when it cannot.
  explicit FrameDecoder(const StreamParameters& stream);

  // True when a stream with these parameters can be decoded after restart().
  bool fits(const StreamParameters& stream) const { return stream == stream_; }

  // Feeds one packet. `discard`: decode it, never show it. Bytes are copied. A packet that the
  // decoder refuses is counted and passed over, as the ffmpeg command line does.
  void feed(std::span<const uint8_t> bytes, uint32_t ordinal, bool discard, const Receive& receive);
  // Gives out all frames still inside. Only restart() may follow.
  void drain(const Receive& receive);
  // Forgets everything; the next packet must be a random-access point.
  void restart();

  // Packets refused and frames reported damaged since construction.
  int64_t complaints() const { return complaints_; }

 private:
  void receive_all(const Receive& receive);

  StreamParameters stream_;
  CodecPointer context_;
  PacketPointer packet_;
  FramePointer frame_;
  int64_t complaints_ = 0;
};

}  // namespace keiko::media
