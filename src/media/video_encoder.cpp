#include "media/video_encoder.h"

#include <algorithm>

#include "base/error.h"

namespace keiko::media {
namespace {

void check(int code, const char* what) {
  if (code < 0)
    fail(ErrorKind::kInternal, "encoding a video: cannot {}: {}", what, ffmpeg_error(code));
}

// No macroblock tree in either: with AVX-512 it gives other bits from run to run on small pictures,
// and with short groups of pictures it has little to look ahead at.
std::string x264_parameters(const VideoEncoderOptions& o) {
  if (o.profile == EncoderProfile::kSmall)
    return "no-mbtree=1:no-psy=1:ref=4:bframes=4:b-pyramid=none:rc-lookahead=30";
  const int b_frames = std::clamp(o.gop - 2, 0, 7);
  return fmt::format(
      "no-mbtree=1:no-psy=1:no-cabac=1:no-deblock=1:weightp=0:weightb=0:ref=1:b-pyramid=none:"
      "b-adapt=0:scenecut=0:direct=spatial:rc-lookahead=8:aq-mode=2:me=umh:merange=24:subme=9:"
      "trellis=2:bframes={}",
      b_frames);
}

}  // namespace

VideoEncoder::VideoEncoder(Env* env, const std::string& path, const VideoEncoderOptions& o)
    : frame_(av_frame_alloc()), packet_(av_packet_alloc()) {
  const AVCodec* codec = avcodec_find_encoder_by_name("libx264");
  if (codec == nullptr)
    fail(ErrorKind::kInternal,
         "this FFmpeg has no libx264 encoder; install one that has, or pack with --for exact");
  if (o.format.width < 2 || o.format.height < 2 || o.format.width % 2 || o.format.height % 2)
    fail(ErrorKind::kUsage, "pictures of {}x{} cannot be encoded; use even sizes", o.format.width,
         o.format.height);
  av_log_set_level(AV_LOG_FATAL);
  encoder_.reset(avcodec_alloc_context3(codec));
  AVCodecContext* c = encoder_.get();
  c->width = o.format.width;
  c->height = o.format.height;
  c->pix_fmt = AV_PIX_FMT_YUV420P;
  c->time_base = o.time_base;
  c->framerate = o.frame_rate;
  c->sample_aspect_ratio = {1, 1};
  c->color_range = AVColorRange(o.format.color_range);
  c->color_primaries = AVColorPrimaries(o.format.color_primaries);
  c->color_trc = AVColorTransferCharacteristic(o.format.color_transfer);
  c->colorspace = AVColorSpace(o.format.color_space);
  c->chroma_sample_location = AVChromaLocation(o.format.chroma_location);
  c->gop_size = o.gop;
  c->thread_count = 1;
  c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_BITEXACT | AV_CODEC_FLAG_CLOSED_GOP;
  AVDictionary* options = nullptr;
  av_dict_set(&options, "preset", "medium", 0);
  av_dict_set_int(&options, "crf", o.crf, 0);
  av_dict_set_int(&options, "a53cc", 0, 0);  // no captions of the source inside the packets
  av_dict_set(&options, "x264-params", x264_parameters(o).c_str(), 0);
  const int opened = avcodec_open2(c, codec, &options);
  av_dict_free(&options);
  check(opened, "open libx264");
  std::unique_ptr<AVCodecParameters, void (*)(AVCodecParameters*)> stream(
      avcodec_parameters_alloc(), [](AVCodecParameters* p) { avcodec_parameters_free(&p); });
  check(avcodec_parameters_from_context(stream.get(), c), "describe the stream");
  file_ = std::make_unique<VideoWriter>(env, path, "mp4", *stream, o.time_base, o.rotation);
}

void VideoEncoder::add(const AVFrame& picture, int64_t pts) {
  av_frame_unref(frame_.get());
  check(av_frame_ref(frame_.get(), &picture), "take a picture");
  // The decoder's word on the source picture must not become the encoder's decision.
  frame_->pict_type = AV_PICTURE_TYPE_NONE;
  unmark_key_frame(frame_.get());
  frame_->pts = pts;
  // Full-range pictures may come as yuvj420p, which are the same bytes.
  frame_->format = AV_PIX_FMT_YUV420P;
  check(avcodec_send_frame(encoder_.get(), frame_.get()), "encode a picture");
  write_packets();
}

void VideoEncoder::write_packets() {
  while (avcodec_receive_packet(encoder_.get(), packet_.get()) >= 0) {
    // Without a duration the last picture would last no time, and the average rate be wrong.
    if (packet_->duration == 0)
      packet_->duration = av_rescale_q(1, av_inv_q(encoder_->framerate), encoder_->time_base);
    file_->write(*packet_);
  }
}

int64_t VideoEncoder::finish() {
  check(avcodec_send_frame(encoder_.get(), nullptr), "finish encoding");
  write_packets();
  return file_->finish();
}

}  // namespace keiko::media
