// One libavcodec decoder, fed with packets by ordinal and giving back frames by the same ordinal.
//
// The ordinal travels as the packet's pts, so a frame always says which packet it came from,
// however the decoder reorders. One thread per decoder: clips run side by side, frames of a clip do
// not.

#pragma once
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "media/ffmpeg.h"
#include "media/packet_table.h"

namespace keiko::media {

// Deblocking costs a fifth of decoding. Leaving it out changes pixels, so it is never the default.
enum class LoopFilter {
  kExact,             // as the standard says
  kSkipUnreferenced,  // frames that no other refers to come out unfiltered; no error spreads
  kSkip,              // no frame is filtered; the error grows until the next key frame
};

// What a decoder on hardware needs besides the stream.
struct DecoderSetup {
  std::string decoder;  // libavcodec's name ("av1"); empty: its first choice for the codec
  // Sets what the context must have before it is opened: a device, the choice of formats.
  std::function<void(AVCodecContext&)> prepare;
  // A flush makes libavcodec's H.264 and HEVC decoders open the hardware's session anew, which
  // costs NVDEC 50 to 70 ms. true: a clip that starts with an instant refresh follows the last one
  // without a flush, as joined streams do, and what is still inside at its end is pushed out with
  // the clip's first packet instead of an end of stream.
  bool keeps_session = false;
};

// A context with the stream's parameters (reorder depth included), not opened yet. `decoder` as in
// DecoderSetup. Throws Error(kData) when this FFmpeg has no such codec.
CodecPointer make_codec_context(const StreamParameters& stream, const std::string& decoder = {});

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
                        Shows shows = Shows::kEverything, const DecoderSetup& setup = {});

  // Feeds one packet. `discard`: decode it, never show it. Bytes are copied. `demuxed`, when not
  // null, gives what travels beside the bytes (new codec parameters, a palette). A packet that the
  // decoder refuses is counted and passed over, as the ffmpeg command line does.
  void feed(std::span<const uint8_t> bytes, uint32_t ordinal, bool discard, const Receive& receive,
            const AVPacket* demuxed = nullptr);
  // Gives out all frames still inside; when the session is kept, those that were fed to be shown.
  // Only restart() may follow.
  void drain(const Receive& receive);
  // Forgets everything; the next packet must be a random-access point.
  void restart();
  // As restart(), and the next packet is of another stream: of the same codec, profile, size and
  // format, and with extradata if the last one had any.
  void restart(const StreamParameters& stream);

  // Packets refused and frames reported damaged since construction.
  int64_t complaints() const { return complaints_; }
  // True when some frame did not say which packet it came from; it was taken for the last one fed.
  bool lost_an_ordinal() const { return lost_an_ordinal_; }

 private:
  void begin_clip(std::span<const uint8_t> first);
  void send(std::span<const uint8_t> bytes, int64_t pts, bool discard, const Receive& receive,
            const AVPacket* demuxed);
  void receive_all(const Receive& receive);

  CodecPointer context_;
  PacketPointer packet_;
  FramePointer frame_;
  bool trusts_corrupt_flag_;
  uint32_t last_fed_ = 0;
  int64_t complaints_ = 0;
  bool lost_an_ordinal_ = false;

  const bool keeps_session_;
  StreamParameters stream_;     // the one that is fed now, or next
  bool is_new_stream_ = false;  // its parameters go with the next packet
  // For a decoder that keeps its session.
  bool is_beginning_ = true;  // the next packet is a clip's first
  bool has_ended_ = false;    // only a flush lets the decoder go on
  int64_t clip_ = 0;          // travels above the ordinal: frames of earlier clips are told apart
  std::vector<uint8_t> refresh_;  // first packet of the clip; empty when it is no instant refresh
  std::set<uint32_t> awaited_;    // fed to be shown, and not out yet
};

// Fingerprint of a frame's size, format and every visible sample.
uint64_t frame_hash(const AVFrame& frame);

}  // namespace keiko::media
