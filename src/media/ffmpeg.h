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

struct FreeIo {
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);
    avio_context_free(&io);
  }
};

using InputPointer = std::unique_ptr<AVFormatContext, CloseInput>;
using CodecPointer = std::unique_ptr<AVCodecContext, FreeCodec>;
using PacketPointer = std::unique_ptr<AVPacket, FreePacket>;
using FramePointer = std::unique_ptr<AVFrame, FreeFrame>;
using IoPointer = std::unique_ptr<AVIOContext, FreeIo>;

// What the seek callback of an AVIOContext answers: moves `at`, a place in `size` bytes.
inline int64_t seek_in(int64_t size, int64_t& at, int64_t offset, int whence) {
  switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE:
      return size;
    case SEEK_SET:
      break;
    case SEEK_CUR:
      offset += at;
      break;
    case SEEK_END:
      offset += size;
      break;
    default:
      return AVERROR(EINVAL);
  }
  if (offset < 0) return AVERROR(EINVAL);
  return at = offset;
}

// What FFmpeg 5.1 and 9.0 spell differently, each behind one name.

// The stream's 3x3 display matrix, or null. The stream owns it. FFmpeg 6.1 keeps it with the codec
// parameters.
inline const int32_t* display_matrix(const AVStream* stream) {
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 30, 100)
  const AVCodecParameters* codec = stream->codecpar;
  const AVPacketSideData* found = av_packet_side_data_get(
      codec->coded_side_data, codec->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
  return found == nullptr ? nullptr : reinterpret_cast<const int32_t*>(found->data);
#else
  return reinterpret_cast<const int32_t*>(
      av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
#endif
}

// Nine numbers for a display matrix that the stream owns, to be filled before the header is
// written; null without memory.
inline int32_t* new_display_matrix(AVStream* stream) {
  const size_t size = sizeof(int32_t) * 9;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(60, 30, 100)
  AVCodecParameters* codec = stream->codecpar;
  AVPacketSideData* made = av_packet_side_data_new(
      &codec->coded_side_data, &codec->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX, size, 0);
  return made == nullptr ? nullptr : reinterpret_cast<int32_t*>(made->data);
#else
  return reinterpret_cast<int32_t*>(
      av_stream_new_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, size));
#endif
}

// What the write callback of an AVIOContext is given.
#if LIBAVFORMAT_VERSION_MAJOR >= 61
using WrittenByte = const uint8_t;
#else
using WrittenByte = uint8_t;
#endif

// Takes the mark of a key frame off a picture.
inline void unmark_key_frame(AVFrame* frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 7, 100)
  frame->flags &= ~AV_FRAME_FLAG_KEY;
#else
  frame->key_frame = 0;
#endif
}

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
