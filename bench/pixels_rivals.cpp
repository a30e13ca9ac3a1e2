#include "pixels_rivals.h"

extern "C" {
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}
#ifdef KEIKO_HAS_ZIMG
#include <zimg.h>
#endif
#ifdef KEIKO_HAS_LIBYUV
#include <libyuv.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace keiko::bench {
namespace {

using media::Filter;
using media::PixelGeometry;

struct Source {
  bool full = false, bt709 = false;
  int x = 0, y = 0, width = 0, height = 0;  // the crop
};

Source source_of(const AVFrame& frame, const PixelGeometry& g) {
  if (frame.format != AV_PIX_FMT_YUV420P && frame.format != AV_PIX_FMT_YUVJ420P)
    fail(ErrorKind::kUsage, "the comparison needs yuv420p");
  Source s;
  s.full = frame.format == AV_PIX_FMT_YUVJ420P || frame.color_range == AVCOL_RANGE_JPEG;
  s.bt709 = frame.colorspace == AVCOL_SPC_BT709;
  s.x = int(g.crop.x), s.y = int(g.crop.y);
  s.width = int(g.crop.width), s.height = int(g.crop.height);
  return s;
}

PixelWay keiko_way(const std::string& name, media::InstructionSet set, const PixelGeometry& g) {
  auto converter = std::make_shared<media::FixedPointPixels>(set);
  return {name, [converter, g](const AVFrame& frame, uint8_t* out) {
            const int64_t plane = int64_t(g.out_width) * g.out_height;
            converter->convert(frame, g, out, out + plane, out + 2 * plane, g.out_width);
          }};
}

// `format`: GBRP for planes, or RGB24 as most programs ask for (then the planes are not made).
PixelWay swscale_way(const std::string& name, int flags, AVPixelFormat format, const Source& s,
                     const PixelGeometry& g) {
  SwsContext* sws = sws_alloc_context();
  av_opt_set_int(sws, "srcw", s.width, 0);
  av_opt_set_int(sws, "srch", s.height, 0);
  av_opt_set_int(sws, "src_format", AV_PIX_FMT_YUV420P, 0);
  av_opt_set_int(sws, "dstw", g.out_width, 0);
  av_opt_set_int(sws, "dsth", g.out_height, 0);
  av_opt_set_int(sws, "dst_format", format, 0);
  av_opt_set_int(sws, "sws_flags",
                 flags | (g.filter == Filter::kBilinear ? SWS_BILINEAR : SWS_BICUBIC), 0);
  if (g.filter == Filter::kBicubic) {
    av_opt_set_double(sws, "param0", 0, 0);
    av_opt_set_double(sws, "param1", 0.5, 0);
  }
  av_opt_set_int(sws, "src_h_chr_pos", 0, 0);
  av_opt_set_int(sws, "src_v_chr_pos", 128, 0);
  const int* matrix = sws_getCoefficients(s.bt709 ? SWS_CS_ITU709 : SWS_CS_ITU601);
  sws_setColorspaceDetails(sws, matrix, s.full, matrix, 1, 0, 1 << 16, 1 << 16);
  if (sws_init_context(sws, nullptr, nullptr) < 0) fail(ErrorKind::kUsage, "swscale refuses");
  const std::shared_ptr<SwsContext> context(sws, sws_freeContext);
  auto packed = std::make_shared<std::vector<uint8_t>>(size_t(3) * g.out_width * g.out_height);
  return {name, [context, packed, format, s, g](const AVFrame& frame, uint8_t* out) {
            const uint8_t* in[4] = {};
            for (int p = 0; p < 3; ++p) {
              const int shift = p == 0 ? 0 : 1;
              in[p] = frame.data[p] + (s.y >> shift) * frame.linesize[p] + (s.x >> shift);
            }
            const int plane = g.out_width * g.out_height;
            if (format == AV_PIX_FMT_GBRP) {
              uint8_t* planes[4] = {out + plane, out + 2 * plane, out, nullptr};
              const int strides[4] = {g.out_width, g.out_width, g.out_width, 0};
              sws_scale(context.get(), in, frame.linesize, 0, s.height, planes, strides);
              return;
            }
            uint8_t* rows[4] = {packed->data(), nullptr, nullptr, nullptr};
            const int strides[4] = {3 * g.out_width, 0, 0, 0};
            sws_scale(context.get(), in, frame.linesize, 0, s.height, rows, strides);
            for (int i = 0; i < plane; ++i)
              for (int c = 0; c < 3; ++c) out[c * plane + i] = (*packed)[size_t(3 * i + c)];
          }};
}

#ifdef KEIKO_HAS_ZIMG
using Aligned = std::unique_ptr<uint8_t, decltype(&std::free)>;
Aligned aligned(size_t size) {
  return {static_cast<uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64)), std::free};
}

struct Zimg {
  zimg_filter_graph* graph = nullptr;
  Aligned work{nullptr, std::free}, result{nullptr, std::free};
  int64_t stride = 0;
  ~Zimg() { zimg_filter_graph_free(graph); }
};

PixelWay zimg_way(const AVFrame& frame, const Source& s, const PixelGeometry& g) {
  auto zimg = std::make_shared<Zimg>();
  zimg_image_format in, out;
  zimg_image_format_default(&in, ZIMG_API_VERSION);
  zimg_image_format_default(&out, ZIMG_API_VERSION);
  in.width = unsigned(frame.width);
  in.height = unsigned(frame.height);
  in.pixel_type = ZIMG_PIXEL_BYTE;
  in.subsample_w = in.subsample_h = 1;
  in.color_family = ZIMG_COLOR_YUV;
  in.matrix_coefficients = s.bt709 ? ZIMG_MATRIX_BT709 : ZIMG_MATRIX_BT470_BG;
  in.pixel_range = s.full ? ZIMG_RANGE_FULL : ZIMG_RANGE_LIMITED;
  in.chroma_location = ZIMG_CHROMA_LEFT;
  in.active_region = {double(s.x), double(s.y), double(s.width), double(s.height)};
  out.width = unsigned(g.out_width);
  out.height = unsigned(g.out_height);
  out.pixel_type = ZIMG_PIXEL_BYTE;
  out.color_family = ZIMG_COLOR_RGB;
  out.matrix_coefficients = ZIMG_MATRIX_RGB;
  out.pixel_range = ZIMG_RANGE_FULL;
  zimg_graph_builder_params params;
  zimg_graph_builder_params_default(&params, ZIMG_API_VERSION);
  const bool bicubic = g.filter == Filter::kBicubic;
  params.resample_filter = params.resample_filter_uv =
      bicubic ? ZIMG_RESIZE_BICUBIC : ZIMG_RESIZE_BILINEAR;
  if (bicubic) {
    params.filter_param_a = params.filter_param_a_uv = 0;
    params.filter_param_b = params.filter_param_b_uv = 0.5;
  }
  params.cpu_type = ZIMG_CPU_AUTO_64B;
  zimg->graph = zimg_filter_graph_build(&in, &out, &params);
  char text[256] = "";
  if (zimg->graph == nullptr) {
    zimg_get_last_error(text, sizeof(text));
    fail(ErrorKind::kUsage, "zimg: {}", text);
  }
  size_t size = 0;
  zimg_filter_graph_get_tmp_size(zimg->graph, &size);
  zimg->work = aligned(size);
  zimg->stride = (g.out_width + 63) / 64 * 64;
  zimg->result = aligned(size_t(3 * zimg->stride * g.out_height));
  return {"zimg", [zimg, g](const AVFrame& source, uint8_t* to) {
            zimg_image_buffer_const from = {ZIMG_API_VERSION};
            zimg_image_buffer result = {ZIMG_API_VERSION};
            for (int p = 0; p < 3; ++p) {
              from.plane[p] = {source.data[p], source.linesize[p], ZIMG_BUFFER_MAX};
              result.plane[p] = {zimg->result.get() + p * zimg->stride * g.out_height,
                                 ptrdiff_t(zimg->stride), ZIMG_BUFFER_MAX};
            }
            zimg_filter_graph_process(zimg->graph, &from, &result, zimg->work.get(), nullptr,
                                      nullptr, nullptr, nullptr);
            // Into the slot, whose rows are not aligned.
            for (int row = 0; row < 3 * g.out_height; ++row)
              std::memcpy(to + row * g.out_width, zimg->result.get() + row * zimg->stride,
                          size_t(g.out_width));
          }};
}
#endif

#ifdef KEIKO_HAS_LIBYUV
PixelWay libyuv_way(const std::string& name, libyuv::FilterMode mode, const Source& s,
                    const PixelGeometry& g) {
  auto small = std::make_shared<std::vector<uint8_t>>(size_t(8) * g.out_width * g.out_height);
  const libyuv::YuvConstants* matrix =
      s.bt709 ? (s.full ? &libyuv::kYuvF709Constants : &libyuv::kYuvH709Constants)
              : (s.full ? &libyuv::kYuvJPEGConstants : &libyuv::kYuvI601Constants);
  return {
      name, [small, matrix, mode, s, g](const AVFrame& frame, uint8_t* out) {
        const int w = g.out_width, h = g.out_height, plane = w * h;
        // Every plane to full size: chroma would be scaled twice otherwise.
        uint8_t* y = small->data();
        for (int p = 0; p < 3; ++p) {
          const int shift = p == 0 ? 0 : 1;
          libyuv::ScalePlane(frame.data[p] + (s.y >> shift) * frame.linesize[p] + (s.x >> shift),
                             frame.linesize[p], s.width >> shift, s.height >> shift, y + p * plane,
                             w, w, h, mode);
        }
        uint8_t* argb = y + 3 * plane;
        libyuv::I444ToARGBMatrix(y, w, y + plane, w, y + 2 * plane, w, argb, 4 * w, matrix, w, h);
        libyuv::SplitARGBPlane(argb, 4 * w, out, w, out + plane, w, out + 2 * plane, w, nullptr, 0,
                               w, h);
      }};
}
#endif

}  // namespace

std::vector<PixelWay> pixel_ways(const AVFrame& frame, const PixelGeometry& g) {
  using media::InstructionSet;
  const Source s = source_of(frame, g);
  std::vector<PixelWay> ways = {keiko_way("Keiko, plain", InstructionSet::kPlain, g)};
  if (media::has_instruction_set(InstructionSet::kSse2))
    ways.push_back(keiko_way("Keiko, SSE2", InstructionSet::kSse2, g));
  if (media::has_instruction_set(InstructionSet::kAvx2))
    ways.push_back(keiko_way("Keiko, AVX2", InstructionSet::kAvx2, g));
  if (media::has_instruction_set(InstructionSet::kAvx512))
    ways.push_back(keiko_way("Keiko, AVX-512", InstructionSet::kAvx512, g));
  constexpr int kAccurate =
      SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
  ways.push_back(swscale_way("swscale, accurate, planes", kAccurate, AV_PIX_FMT_GBRP, s, g));
  ways.push_back(swscale_way("swscale, default, planes", 0, AV_PIX_FMT_GBRP, s, g));
  ways.push_back(swscale_way("swscale, default, rgb24", 0, AV_PIX_FMT_RGB24, s, g));
#ifdef KEIKO_HAS_ZIMG
  ways.push_back(zimg_way(frame, s, g));
#endif
#ifdef KEIKO_HAS_LIBYUV
  if (g.filter == Filter::kBilinear) {
    ways.push_back(libyuv_way("libyuv, box", libyuv::kFilterBox, s, g));
    ways.push_back(libyuv_way("libyuv, bilinear", libyuv::kFilterBilinear, s, g));
  }
#endif
  return ways;
}

}  // namespace keiko::bench
