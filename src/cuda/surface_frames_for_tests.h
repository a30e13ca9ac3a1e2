// Planar frames turned into what GPU decoders give: the same samples in other places.

#pragma once
#include <cstdint>
#include <cstring>

#include "media/pixels_test_frames.h"

namespace keiko::cuda {

// `frame` (planar 4:2:0 or 4:4:4) in `format` (a semi-planar or planar format of the same chroma),
// values moved up to the top of the sample where `format` keeps them there. 16-bit formats of 4:4:4
// have them there too, as surfaces of NVDEC do.
inline media::FramePointer to_surface(const AVFrame& frame, AVPixelFormat format) {
  const AVPixFmtDescriptor* from = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const AVPixFmtDescriptor* to = av_pix_fmt_desc_get(format);
  const int bytes = from->comp[0].depth > 8 ? 2 : 1;
  const int up = to->comp[0].depth + to->comp[0].shift - from->comp[0].depth;
  media::FramePointer surface(av_frame_alloc());
  surface->format = format;
  surface->width = frame.width;
  surface->height = frame.height;
  surface->color_range = frame.color_range;
  surface->colorspace = frame.colorspace;
  surface->chroma_location = frame.chroma_location;
  for (int i = 0; i < 3; ++i) {
    const int w = i > 0 ? AV_CEIL_RSHIFT(frame.width, from->log2_chroma_w) : frame.width;
    const int h = i > 0 ? AV_CEIL_RSHIFT(frame.height, from->log2_chroma_h) : frame.height;
    const AVComponentDescriptor& c = to->comp[i];
    if (surface->data[c.plane] == nullptr) {
      // Rows as far apart as they must be, so that a sanitizer sees every read outside.
      surface->linesize[c.plane] = w * c.step;
      const size_t size = size_t(surface->linesize[c.plane]) * size_t(h);
      auto* memory = new uint8_t[size];
      surface->buf[c.plane] = av_buffer_create(
          memory, size, [](void*, uint8_t* data) { delete[] data; }, nullptr, 0);
      surface->data[c.plane] = memory;
    }
    for (int y = 0; y < h; ++y)
      for (int x = 0; x < w; ++x) {
        uint16_t value = 0;
        std::memcpy(&value, frame.data[i] + int64_t(y) * frame.linesize[i] + x * bytes,
                    size_t(bytes));
        value = uint16_t(value << up);
        std::memcpy(surface->data[c.plane] + int64_t(y) * surface->linesize[c.plane] + x * c.step +
                        c.offset,
                    &value, size_t(bytes));
      }
  }
  return surface;
}

// The format in which NVDEC gives frames of `format`; AV_PIX_FMT_NONE when it does not.
inline AVPixelFormat surface_format(int format) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(format));
  if (d->nb_components != 3 || (d->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_BE)) != 0 ||
      d->comp[1].plane != 1 || d->comp[2].plane != 2)
    return AV_PIX_FMT_NONE;
  const int depth = d->comp[0].depth;
  if (d->log2_chroma_w == 0 && d->log2_chroma_h == 0)
    return depth == 8 ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV444P16LE;
  if (d->log2_chroma_w == 1 && d->log2_chroma_h == 1)
    return depth == 8 ? AV_PIX_FMT_NV12 : depth == 10 ? AV_PIX_FMT_P010LE : AV_PIX_FMT_P016LE;
  return AV_PIX_FMT_NONE;
}

}  // namespace keiko::cuda
