#include "media/frame_decoder.h"

#include <cstring>

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "base/error.h"

namespace keiko::media {

CodecPointer make_codec_context(const StreamParameters& s) {
  const AVCodecDescriptor* descriptor = avcodec_descriptor_get_by_name(s.codec.c_str());
  const AVCodec* codec = descriptor == nullptr ? nullptr : avcodec_find_decoder(descriptor->id);
  if (codec == nullptr)
    fail(ErrorKind::kData, "this FFmpeg has no decoder for {}; install one that has", s.codec);
  CodecPointer context(avcodec_alloc_context3(codec));
  std::unique_ptr<AVCodecParameters, void (*)(AVCodecParameters*)> p(
      avcodec_parameters_alloc(), [](AVCodecParameters* q) { avcodec_parameters_free(&q); });
  p->codec_type = AVMEDIA_TYPE_VIDEO;
  p->codec_id = descriptor->id;
  p->codec_tag = s.codec_tag;
  p->format = av_get_pix_fmt(s.pixel_format.c_str());
  p->profile = s.profile;
  p->level = s.level;
  p->width = s.width;
  p->height = s.height;
  p->field_order = AVFieldOrder(s.field_order);
  p->color_range = AVColorRange(s.color_range);
  p->color_primaries = AVColorPrimaries(s.color_primaries);
  p->color_trc = AVColorTransferCharacteristic(s.color_transfer);
  p->color_space = AVColorSpace(s.color_space);
  p->chroma_location = AVChromaLocation(s.chroma_location);
  p->video_delay = s.reorder_depth;
  p->bits_per_raw_sample = s.bits_per_raw_sample;
  if (!s.extradata.empty()) {
    p->extradata =
        static_cast<uint8_t*>(av_mallocz(s.extradata.size() + AV_INPUT_BUFFER_PADDING_SIZE));
    std::memcpy(p->extradata, s.extradata.data(), s.extradata.size());
    p->extradata_size = int(s.extradata.size());
  }
  const int code = avcodec_parameters_to_context(context.get(), p.get());
  if (code < 0)
    fail(ErrorKind::kData, "{} parameters are unusable: {}", s.codec, ffmpeg_error(code));
  context->pkt_timebase = {int(s.time_base_num), int(s.time_base_den)};
  context->thread_count = 1;
  return context;
}

FrameDecoder::FrameDecoder(const StreamParameters& stream)
    : stream_(stream),
      context_(make_codec_context(stream)),
      packet_(av_packet_alloc()),
      frame_(av_frame_alloc()) {
  av_log_set_level(AV_LOG_FATAL);
  const int code = avcodec_open2(context_.get(), context_->codec, nullptr);
  if (code < 0)
    fail(ErrorKind::kData, "cannot open the {} decoder: {}", stream.codec, ffmpeg_error(code));
}

void FrameDecoder::feed(std::span<const uint8_t> bytes, uint32_t ordinal, bool discard,
                        const Receive& receive) {
  if (av_new_packet(packet_.get(), int(bytes.size())) < 0)
    fail(ErrorKind::kIo, "out of memory for a packet of {} bytes", bytes.size());
  std::memcpy(packet_->data, bytes.data(), bytes.size());
  packet_->pts = packet_->dts = ordinal;
  if (discard) packet_->flags |= AV_PKT_FLAG_DISCARD;
  int code = avcodec_send_packet(context_.get(), packet_.get());
  if (code == AVERROR(EAGAIN)) {
    receive_all(receive);
    code = avcodec_send_packet(context_.get(), packet_.get());
  }
  av_packet_unref(packet_.get());
  if (code < 0) ++complaints_;
  receive_all(receive);
}

void FrameDecoder::drain(const Receive& receive) {
  avcodec_send_packet(context_.get(), nullptr);
  receive_all(receive);
}

void FrameDecoder::restart() { avcodec_flush_buffers(context_.get()); }

void FrameDecoder::receive_all(const Receive& receive) {
  while (true) {
    const int code = avcodec_receive_frame(context_.get(), frame_.get());
    if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
    if (code < 0) {
      ++complaints_;
      return;
    }
    if (frame_->decode_error_flags != 0 || (frame_->flags & AV_FRAME_FLAG_CORRUPT)) ++complaints_;
    if (frame_->pts >= 0 && frame_->pts <= UINT32_MAX) receive(uint32_t(frame_->pts), *frame_);
    av_frame_unref(frame_.get());
  }
}

}  // namespace keiko::media
