#include "media/clip_encoder.h"

#include <cstring>

#include "base/error.h"
#include "media/ffmpeg.h"

namespace keiko::media {
namespace {

void check(int code, const char* what) {
  if (code < 0)
    fail(ErrorKind::kInternal, "encoding a clip: cannot {}: {}", what, ffmpeg_error(code));
}

struct FreeOutput {
  void operator()(AVFormatContext* context) const {
    if (context->pb != nullptr) {
      uint8_t* bytes = nullptr;
      avio_close_dyn_buf(context->pb, &bytes);
      av_free(bytes);
    }
    avformat_free_context(context);
  }
};

}  // namespace

std::vector<uint8_t> encode_mp4(std::span<const uint8_t> luma, const EncoderOptions& o) {
  if (o.width % 2 != 0 || o.height % 2 != 0 || o.width < 16 || o.height < 16)
    fail(ErrorKind::kUsage,
         "a clip of {}x{} pixels cannot be encoded; use even sizes of 16 or more", o.width,
         o.height);
  const AVCodec* codec = avcodec_find_encoder_by_name("libx264");
  if (codec == nullptr)
    fail(ErrorKind::kInternal, "this FFmpeg has no libx264 encoder, which `synth` needs");
  av_log_set_level(AV_LOG_FATAL);

  AVFormatContext* raw = nullptr;
  check(avformat_alloc_output_context2(&raw, nullptr, "mp4", nullptr), "make an mp4 writer");
  std::unique_ptr<AVFormatContext, FreeOutput> output(raw);
  output->flags |= AVFMT_FLAG_BITEXACT;
  check(avio_open_dyn_buf(&output->pb), "open a memory buffer");

  CodecPointer encoder(avcodec_alloc_context3(codec));
  encoder->width = o.width;
  encoder->height = o.height;
  encoder->pix_fmt = AV_PIX_FMT_YUV420P;
  encoder->time_base = {1, o.frames_per_second};
  encoder->framerate = {o.frames_per_second, 1};
  encoder->gop_size = o.keyframe_interval;
  encoder->max_b_frames = o.b_frames;
  encoder->thread_count = 1;
  encoder->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT;
  AVDictionary* options = nullptr;
  av_dict_set(&options, "preset", "veryfast", 0);
  av_dict_set_int(&options, "crf", o.crf, 0);
  // A short lookahead: opening and flushing x264 is most of the cost of a tiny clip. No macroblock
  // tree: with AVX-512 it gives other bits from run to run on such small frames (12 clips of 150).
  av_dict_set(&options, "x264-params", "rc-lookahead=4:no-mbtree=1", 0);
  const int opened = avcodec_open2(encoder.get(), codec, &options);
  av_dict_free(&options);
  check(opened, "open libx264");

  AVStream* stream = avformat_new_stream(output.get(), nullptr);
  stream->time_base = encoder->time_base;
  check(avcodec_parameters_from_context(stream->codecpar, encoder.get()), "describe the stream");
  check(avformat_write_header(output.get(), nullptr), "write the header");

  PacketPointer packet(av_packet_alloc());
  auto write_packets = [&] {
    while (avcodec_receive_packet(encoder.get(), packet.get()) >= 0) {
      packet->stream_index = 0;
      packet->duration = 1;
      av_packet_rescale_ts(packet.get(), encoder->time_base, stream->time_base);
      check(av_interleaved_write_frame(output.get(), packet.get()), "write a packet");
    }
  };
  FramePointer frame(av_frame_alloc());
  frame->format = AV_PIX_FMT_YUV420P;
  frame->width = o.width;
  frame->height = o.height;
  check(av_frame_get_buffer(frame.get(), 0), "allocate a frame");
  const size_t frame_size = size_t(o.width) * o.height;
  for (size_t at = 0; at + frame_size <= luma.size(); at += frame_size) {
    check(av_frame_make_writable(frame.get()), "reuse a frame");
    for (int y = 0; y < o.height; ++y)
      std::memcpy(frame->data[0] + int64_t(y) * frame->linesize[0],
                  luma.data() + at + size_t(y) * o.width, size_t(o.width));
    for (int plane : {1, 2})
      std::memset(frame->data[plane], 128, size_t(frame->linesize[plane]) * (o.height / 2));
    frame->pts = int64_t(at / frame_size);
    check(avcodec_send_frame(encoder.get(), frame.get()), "encode a frame");
    write_packets();
  }
  check(avcodec_send_frame(encoder.get(), nullptr), "finish encoding");
  write_packets();
  check(av_write_trailer(output.get()), "write the trailer");

  uint8_t* bytes = nullptr;
  const int size = avio_close_dyn_buf(output->pb, &bytes);
  output->pb = nullptr;
  std::vector<uint8_t> file(bytes, bytes + size);
  av_free(bytes);
  return file;
}

}  // namespace keiko::media
