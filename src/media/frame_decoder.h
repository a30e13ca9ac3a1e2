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

// Deblocking costs a fifth of decoding. Leaving it out changes pixels, so it is never the default.
enum class LoopFilter {
  kExact,             // as the standard says
  kSkipUnreferenced,  // frames that no other refers to come out unfiltered; no error spreads
  kSkip,              // no frame is filtered; the error grows until the next key frame
};

// A context with the stream's parameters (reorder depth included), not opened yet.
// Throws Error(kData) when this FFmpeg has no such codec.
CodecPointer make_codec_context(const StreamParameters& stream);

// Not thread-safe.
class FrameDecoder {
 public:
  // Gets each frame that comes out, in presentation order, with the ordinal of its packet. The
  // frame is valid during the call only.
  using Receive = std::function<void(uint32_t ordinal, const AVFrame& frame)>;

  // Which frames come out. A player holds back what follows a start at a point that is no instant
  // refresh until it is sure of it, and at the end of a clip it would never be sure.
  enum class Shows { kEverything, kAsAPlayer };

  // Opens the decoder. Throws Error(kData) when it cannot.
  explicit FrameDecoder(const StreamParameters& stream, LoopFilter loop_filter = LoopFilter::kExact,
                        Shows shows = Shows::kEverything);

  // Feeds one packet. `discard`: decode it, never show it. Bytes are copied. `demuxed`, when not
  // null, gives what travels beside the bytes (new codec parameters, a palette). A packet that the
  // decoder refuses is counted and passed over, as the ffmpeg command line does.
  void feed(std::span<const uint8_t> bytes, uint32_t ordinal, bool discard, const Receive& receive,
            const AVPacket* demuxed = nullptr);
  // Gives out all frames still inside. Only restart() may follow.
  void drain(const Receive& receive);
  // Forgets everything; the next packet must be a random-access point.
  void restart();

  // Packets refused and frames reported damaged since construction.
  int64_t complaints() const { return complaints_; }
  // True when some frame did not say which packet it came from; it was taken for the last one fed.
  bool lost_an_ordinal() const { return lost_an_ordinal_; }

 private:
  void receive_all(const Receive& receive);

  CodecPointer context_;
  PacketPointer packet_;
  FramePointer frame_;
  bool trusts_corrupt_flag_;
  uint32_t last_fed_ = 0;
  int64_t complaints_ = 0;
  bool lost_an_ordinal_ = false;
};

// Fingerprint of a frame's size, format and every visible sample.
uint64_t frame_hash(const AVFrame& frame);

}  // namespace keiko::media
