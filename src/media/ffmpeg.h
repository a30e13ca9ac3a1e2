// FFmpeg's pointers, wrapped once: each frees itself, and each error code becomes a sentence.

#pragma once
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/frame.h>
}

#include <cstring>
#include <memory>
#include <string>

namespace keiko::media {

struct CloseInput {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};
struct FreeCodec {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};

using InputPointer = std::unique_ptr<AVFormatContext, CloseInput>;
using CodecPointer = std::unique_ptr<AVCodecContext, FreeCodec>;
using PacketPointer = std::unique_ptr<AVPacket, FreePacket>;
using FramePointer = std::unique_ptr<AVFrame, FreeFrame>;

// "Invalid data found when processing input"
inline std::string ffmpeg_error(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof(text));
  return text;
}

// The value of an enumeration's field, or `otherwise` when it is outside [0, count): decoders copy
// numbers out of the bitstream into them unchecked, and even loading such a one is undefined.
template <class Enum>
Enum known_value(const Enum& field, int count, int otherwise) {
  static_assert(sizeof(Enum) == sizeof(int));
  int value;
  std::memcpy(&value, &field, sizeof(value));
  return Enum(value >= 0 && value < count ? value : otherwise);
}

}  // namespace keiko::media
