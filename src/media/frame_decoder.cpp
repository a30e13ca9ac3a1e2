#include "media/frame_decoder.h"

#include <cstring>

extern "C" {
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
}

#include "base/error.h"
#include "base/hash.h"
#include "media/instant_refresh.h"
#include "media/limits.h"

namespace keiko::media {
namespace {

// Above the ordinal in a packet's pts: the clip, and whether the packet only pushes others out.
constexpr int kClipShift = 33;
constexpr int64_t kPush = int64_t{1} << 32;
// Packets that push, at most. H.264 and HEVC hold back 16 pictures at most (A.3.1 and A.4.2 of
// them).
constexpr int kMostPushes = 18;

void forget_unknown_colors(AVFrame& picture) {
  picture.color_range = known_value(picture.color_range, AVCOL_RANGE_NB, AVCOL_RANGE_UNSPECIFIED);
  picture.color_primaries =
      known_value(picture.color_primaries, AVCOL_PRI_NB, AVCOL_PRI_UNSPECIFIED);
  picture.colorspace = known_value(picture.colorspace, AVCOL_SPC_NB, AVCOL_SPC_UNSPECIFIED);
  picture.color_trc = known_value(picture.color_trc, AVCOL_TRC_NB, AVCOL_TRC_UNSPECIFIED);
  picture.chroma_location =
      known_value(picture.chroma_location, AVCHROMA_LOC_NB, AVCHROMA_LOC_UNSPECIFIED);
}

}  // namespace

CodecPointer make_codec_context(const StreamParameters& s, const std::string& decoder) {
  const AVCodecDescriptor* descriptor = avcodec_descriptor_get_by_name(s.codec.c_str());
  // An index that lies may name an audio codec, whose decoder would be opened with a picture's
  // size.
  const bool is_video = descriptor != nullptr && descriptor->type == AVMEDIA_TYPE_VIDEO;
  const AVCodec* codec = !is_video         ? nullptr
                         : decoder.empty() ? avcodec_find_decoder(descriptor->id)
                                           : avcodec_find_decoder_by_name(decoder.c_str());
  if (is_video && !decoder.empty() && (codec == nullptr || codec->id != descriptor->id))
    fail(ErrorKind::kData, "this FFmpeg has no decoder `{}` for {}; install one that has", decoder,
         s.codec);
  if (codec == nullptr)
    fail(ErrorKind::kData, "this FFmpeg has no video decoder for {}; install one that has",
         s.codec);
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
  p->field_order = AVFieldOrder(known_value(s.field_order, AV_FIELD_BT + 1, AV_FIELD_UNKNOWN));
  p->color_range =
      AVColorRange(known_value(s.color_range, AVCOL_RANGE_NB, AVCOL_RANGE_UNSPECIFIED));
  p->color_primaries =
      AVColorPrimaries(known_value(s.color_primaries, AVCOL_PRI_NB, AVCOL_PRI_UNSPECIFIED));
  p->color_trc = AVColorTransferCharacteristic(
      known_value(s.color_transfer, AVCOL_TRC_NB, AVCOL_TRC_UNSPECIFIED));
  p->color_space = AVColorSpace(known_value(s.color_space, AVCOL_SPC_NB, AVCOL_SPC_UNSPECIFIED));
  p->chroma_location =
      AVChromaLocation(known_value(s.chroma_location, AVCHROMA_LOC_NB, AVCHROMA_LOC_UNSPECIFIED));
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
  context->max_pixels = kMostPixels;
  return context;
}

FrameDecoder::FrameDecoder(const StreamParameters& stream, LoopFilter loop_filter, Shows shows,
                           const DecoderSetup& setup)
    : context_(make_codec_context(stream, setup.decoder)),
      packet_(av_packet_alloc()),
      frame_(av_frame_alloc()),
      // In H.264 the flag only says that a player would still hold the frame back.
      trusts_corrupt_flag_(stream.codec != "h264"),
      keeps_session_(setup.keeps_session && has_instant_refresh(stream.codec)),
      stream_(stream) {
  limit_ffmpeg();
  if (shows == Shows::kEverything) context_->flags |= AV_CODEC_FLAG_OUTPUT_CORRUPT;
  if (loop_filter == LoopFilter::kSkipUnreferenced)
    context_->skip_loop_filter = AVDISCARD_NONREF;
  else if (loop_filter == LoopFilter::kSkip)
    context_->skip_loop_filter = AVDISCARD_ALL;
  if (setup.prepare) setup.prepare(*context_);
  const int code = avcodec_open2(context_.get(), context_->codec, nullptr);
  if (code < 0)
    fail(ErrorKind::kData, "cannot open the {} decoder: {}", stream.codec, ffmpeg_error(code));
}

void FrameDecoder::feed(std::span<const uint8_t> bytes, uint32_t ordinal, bool discard,
                        const Receive& receive, const AVPacket* demuxed) {
  if (keeps_session_ && is_beginning_) begin_clip(bytes);
  if (keeps_session_ && !discard) awaited_.insert(ordinal);
  last_fed_ = ordinal;
  // The packet that was kept is this one, or says besides that it breaks with what came before.
  const bool is_first = keeps_session_ && is_beginning_ && !refresh_.empty();
  send(is_first ? std::span<const uint8_t>(refresh_) : bytes, clip_ << kClipShift | ordinal,
       discard, receive, demuxed);
  is_beginning_ = is_new_stream_ = false;
}

void FrameDecoder::begin_clip(std::span<const uint8_t> first) {
  refresh_ = as_instant_refresh(stream_, first);
  if (has_ended_ || (refresh_.empty() && clip_ > 0)) avcodec_flush_buffers(context_.get());
  has_ended_ = false;
}

void FrameDecoder::send(std::span<const uint8_t> bytes, int64_t pts, bool discard,
                        const Receive& receive, const AVPacket* demuxed) {
  if (av_new_packet(packet_.get(), int(bytes.size())) < 0)
    fail(ErrorKind::kIo, "out of memory for a packet of {} bytes", bytes.size());
  std::memcpy(packet_->data, bytes.data(), bytes.size());
  if (demuxed != nullptr && av_packet_copy_props(packet_.get(), demuxed) < 0)
    fail(ErrorKind::kIo, "out of memory for what travels beside packet {}", last_fed_);
  if (is_new_stream_ && !stream_.extradata.empty()) {
    uint8_t* to =
        av_packet_new_side_data(packet_.get(), AV_PKT_DATA_NEW_EXTRADATA, stream_.extradata.size());
    if (to == nullptr) fail(ErrorKind::kIo, "out of memory for the parameters of a stream");
    std::memcpy(to, stream_.extradata.data(), stream_.extradata.size());
  }
  packet_->pts = packet_->dts = pts;
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
  if (keeps_session_ && !refresh_.empty())
    for (int i = 0; i < kMostPushes && !awaited_.empty(); ++i)
      send(refresh_, clip_ << kClipShift | kPush, true, receive, nullptr);
  if (keeps_session_ && awaited_.empty()) return;
  avcodec_send_packet(context_.get(), nullptr);
  receive_all(receive);
  has_ended_ = true;
}

void FrameDecoder::restart() {
  if (!keeps_session_) {
    avcodec_flush_buffers(context_.get());
    return;
  }
  is_beginning_ = true;
  awaited_.clear();
  ++clip_;
}

void FrameDecoder::restart(const StreamParameters& stream) {
  restart();
  if (stream == stream_) return;
  // What only the container knew of the last stream must not colour this one.
  const CodecPointer other = make_codec_context(stream, context_->codec->name);
  context_->color_range = other->color_range;
  context_->color_primaries = other->color_primaries;
  context_->color_trc = other->color_trc;
  context_->colorspace = other->colorspace;
  context_->chroma_sample_location = other->chroma_sample_location;
  context_->field_order = other->field_order;
  context_->has_b_frames = other->has_b_frames;
  context_->pkt_timebase = other->pkt_timebase;
  is_new_stream_ = stream.extradata != stream_.extradata;
  stream_ = stream;
}

void FrameDecoder::receive_all(const Receive& receive) {
  while (true) {
    const int code = avcodec_receive_frame(context_.get(), frame_.get());
    if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
    if (code < 0) {
      ++complaints_;
      return;
    }
    if (frame_->decode_error_flags != 0 ||
        (trusts_corrupt_flag_ && (frame_->flags & AV_FRAME_FLAG_CORRUPT)))
      ++complaints_;
    forget_unknown_colors(*frame_);
    const int64_t pts = frame_->pts - (clip_ << kClipShift);
    const bool is_numbered = pts >= 0 && pts < UINT32_MAX;
    // Frames of the last clip, and of packets that only push, come out between the others.
    const bool is_stale = keeps_session_ && frame_->pts != AV_NOPTS_VALUE && !is_numbered;
    if (!is_stale) {
      if (!is_numbered) lost_an_ordinal_ = true;
      const uint32_t ordinal = is_numbered ? uint32_t(pts) : last_fed_;
      awaited_.erase(ordinal);
      receive(ordinal, *frame_);
    }
    av_frame_unref(frame_.get());
  }
}

uint64_t frame_hash(const AVFrame& frame) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  uint64_t hash =
      uint64_t(frame.format) << 40 ^ uint64_t(frame.width) << 20 ^ uint64_t(frame.height);
  if (d == nullptr) return hash;
  int widths[4] = {}, planes = av_pix_fmt_count_planes(AVPixelFormat(frame.format));
  if (av_image_fill_linesizes(widths, AVPixelFormat(frame.format), frame.width) < 0) return hash;
  for (int p = 0; p < planes; ++p) {
    const bool is_chroma = (p == 1 || p == 2) && !(d->flags & AV_PIX_FMT_FLAG_RGB);
    const int rows = is_chroma ? AV_CEIL_RSHIFT(frame.height, d->log2_chroma_h) : frame.height;
    for (int y = 0; y < rows; ++y) {
      const uint8_t* row = frame.data[p] + int64_t(y) * frame.linesize[p];
      hash = hash * 0x9e3779b97f4a7c15u + xxh3(std::span(row, size_t(widths[p])));
    }
  }
  return hash;
}

}  // namespace keiko::media
