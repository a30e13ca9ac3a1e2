#include "media/frame_scaler.h"

#include <algorithm>
#include <cmath>

extern "C" {
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include "base/error.h"

namespace keiko::media {
namespace {

bool is_rgb(const AVPixFmtDescriptor* d) {
  return (d->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL)) != 0;
}
bool is_grey(const AVPixFmtDescriptor* d) { return d->nb_components <= 2; }

int even_size(double size, int most) {
  int even = std::max(2, 2 * int(std::lround(size / 2)));
  while (even > most && even > 2) even -= 2;
  return even;
}

// Offsets of a chroma sample from the first luma sample of its pair, in 1/256 luma samples: what
// swscale calls chr_pos.
struct ChromaPlace {
  int x, y;
};
ChromaPlace chroma_place(int location) {
  switch (location) {
    case AVCHROMA_LOC_CENTER:
      return {128, 128};
    case AVCHROMA_LOC_TOPLEFT:
      return {0, 0};
    case AVCHROMA_LOC_TOP:
      return {128, 0};
    case AVCHROMA_LOC_BOTTOMLEFT:
      return {0, 256};
    case AVCHROMA_LOC_BOTTOM:
      return {128, 256};
    default:
      return {0, 128};  // left, also when nothing is said
  }
}

// The yuvj formats are ordinary ones of full range. swscale must not convert the range, so it never
// hears of it.
AVPixelFormat without_range(AVPixelFormat format) {
  switch (format) {
    case AV_PIX_FMT_YUVJ420P:
      return AV_PIX_FMT_YUV420P;
    case AV_PIX_FMT_YUVJ422P:
      return AV_PIX_FMT_YUV422P;
    case AV_PIX_FMT_YUVJ444P:
      return AV_PIX_FMT_YUV444P;
    case AV_PIX_FMT_YUVJ440P:
      return AV_PIX_FMT_YUV440P;
    default:
      return format;
  }
}

}  // namespace

ScaledFormat scaled_format(const StreamParameters& stream, int short_side) {
  ScaledFormat f;
  const double aspect = double(stream.sample_aspect_num) / stream.sample_aspect_den;
  // Square pixels by shrinking the longer side of a pixel's neighbourhood, never by enlarging.
  const double width = aspect < 1 ? stream.width * aspect : stream.width;
  const double height = aspect > 1 ? stream.height / aspect : stream.height;
  const double factor = short_side > 0 ? std::min(1.0, short_side / std::min(width, height)) : 1.0;
  f.width = even_size(width * factor, stream.width);
  f.height = even_size(height * factor, stream.height);
  f.color_range = stream.color_range;
  f.color_primaries = stream.color_primaries;
  f.color_transfer = stream.color_transfer;
  f.color_space = stream.color_space;
  f.chroma_location = stream.chroma_location;
  const AVPixelFormat format = av_get_pix_fmt(stream.pixel_format.c_str());
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(format);
  if (d == nullptr) return f;
  if (is_rgb(d)) {
    f.color_range = AVCOL_RANGE_MPEG;
    f.color_space = AVCOL_SPC_SMPTE170M;
    f.chroma_location = AVCHROMA_LOC_LEFT;
  } else if (f.color_range == AVCOL_RANGE_UNSPECIFIED &&
             (is_grey(d) || without_range(format) != format)) {
    f.color_range = AVCOL_RANGE_JPEG;
  }
  // Only 4:2:0 has a choice of places vertically; what comes from elsewhere is written as left.
  if (d->log2_chroma_w != 1 || d->log2_chroma_h != 1) f.chroma_location = AVCHROMA_LOC_LEFT;
  return f;
}

void FrameScaler::FreeScaler::operator()(SwsContext* context) const { sws_freeContext(context); }

const AVFrame& FrameScaler::scale(const AVFrame& frame) {
  const AVPixelFormat input = without_range(AVPixelFormat(frame.format));
  if (input == AV_PIX_FMT_YUV420P && frame.width == format_.width && frame.height == format_.height)
    return frame;
  if (!scaler_ || frame.width != width_ || frame.height != height_ ||
      frame.format != format_of_input_) {
    const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(input);
    if (d == nullptr || !sws_isSupportedInput(input))
      fail(ErrorKind::kData, "pixel format {} cannot be converted to yuv420p",
           d == nullptr ? "unknown" : d->name);
    scaler_.reset(sws_alloc_context());
    const ChromaPlace to = chroma_place(format_.chroma_location);
    ChromaPlace from = to;
    if (d->log2_chroma_w == 0) from.x = -513;  // swscale's word for "not subsampled"
    if (d->log2_chroma_h == 0) from.y = -513;
    const std::pair<const char*, int64_t> options[] = {
        {"srcw", frame.width},
        {"srch", frame.height},
        {"src_format", input},
        {"dstw", format_.width},
        {"dsth", format_.height},
        {"dst_format", AV_PIX_FMT_YUV420P},
        {"sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT},
        {"sws_dither", 1},  // none: the same picture gives the same bytes wherever it stands
        {"src_h_chr_pos", from.x},
        {"src_v_chr_pos", from.y},
        {"dst_h_chr_pos", to.x},
        {"dst_v_chr_pos", to.y}};
    for (const auto& [name, value] : options)
      if (av_opt_set_int(scaler_.get(), name, value, 0) < 0)
        fail(ErrorKind::kInternal, "swscale has no option {}", name);
    if (sws_init_context(scaler_.get(), nullptr, nullptr) < 0)
      fail(ErrorKind::kData, "{} of {}x{} cannot be scaled to {}x{}", d->name, frame.width,
           frame.height, format_.width, format_.height);
    // One range and matrix on both sides: nothing but the size changes.
    const int range = is_rgb(d) ? 0 : 1;
    sws_setColorspaceDetails(scaler_.get(), sws_getCoefficients(SWS_CS_ITU601), 1,
                             sws_getCoefficients(SWS_CS_ITU601), range, 0, 1 << 16, 1 << 16);
    width_ = frame.width;
    height_ = frame.height;
    format_of_input_ = frame.format;
    av_frame_unref(scaled_.get());
    scaled_->format = AV_PIX_FMT_YUV420P;
    scaled_->width = format_.width;
    scaled_->height = format_.height;
    if (av_frame_get_buffer(scaled_.get(), 0) < 0)
      fail(ErrorKind::kIo, "out of memory for a picture of {}x{}", format_.width, format_.height);
  }
  if (av_frame_make_writable(scaled_.get()) < 0)
    fail(ErrorKind::kIo, "out of memory for a picture of {}x{}", format_.width, format_.height);
  sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, scaled_->data,
            scaled_->linesize);
  return *scaled_;
}

}  // namespace keiko::media
