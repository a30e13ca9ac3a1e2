#include "media/pixels_plan.h"

#include <algorithm>
#include <cmath>

extern "C" {
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include "base/error.h"

namespace keiko::media {
namespace {

template <Filter kFilter>
double filter_value(double x) {
  x = std::abs(x);
  if constexpr (kFilter == Filter::kBilinear) return std::max(1 - x, 0.0);
  constexpr double a = -0.5;  // Keys, "Cubic convolution interpolation", 1981
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// A table is made for every clip whose crop is its own, so this must not be slow.
template <Filter kFilter>
Resampling resampling_of(double start, double length, int input, int output) {
  const double scale = std::max(length, 0.0) / output;
  const double stretch = std::max(scale, 1.0), narrow = 1 / stretch;
  const double radius = (kFilter == Filter::kBilinear ? 1.0 : 2.0) * stretch;
  Resampling r;
  r.taps = int(std::min(double(input), std::ceil(radius) * 2 + 1));
  r.first.resize(size_t(output));
  r.weights.resize(size_t(output) * r.taps);
  r.low = input;
  for (int i = 0; i < output; ++i) {
    // Chroma sites lie up to a quarter of a sample outside. Farther out the negative lobes of the
    // bicubic filter would weigh more than the rest of it, and the weights' sum could be zero.
    const double centre = std::clamp(start + (i + 0.5) * scale, -0.25, input + 0.25);
    const int from =
        int(std::clamp(std::floor(centre - radius + 0.5), 0.0, double(input - r.taps)));
    r.first[i] = from;
    double* w = r.weights.data() + size_t(i) * r.taps;
    double sum = 0;
    for (int k = 0; k < r.taps; ++k) {
      w[k] = filter_value<kFilter>((from + k + 0.5 - centre) * narrow);
      sum += w[k];
    }
    const double share = 1 / sum;
    for (int k = 0; k < r.taps; ++k) w[k] *= share;
    r.low = std::min(r.low, from);
    r.high = std::max(r.high, from + r.taps);
  }
  return r;
}

struct Matrix {
  double kr, kb;
};

// Luma weights of ITU-T H.273 table 4. Unspecified counts as BT.601, as in the ffmpeg command line.
Matrix matrix_of(int color_space) {
  switch (color_space) {
    case AVCOL_SPC_BT709:
      return {0.2126, 0.0722};
    case AVCOL_SPC_FCC:
      return {0.30, 0.11};
    case AVCOL_SPC_SMPTE240M:
      return {0.212, 0.087};
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return {0.2627, 0.0593};
    default:
      return {0.299, 0.114};
  }
}

// The horizontal and vertical place of the first chroma sample in luma sample edges (0.5 is the
// centre of the first luma sample). Unspecified 4:2:0 is sited left, as in MPEG-2 and H.264.
void chroma_origin(int location, int log2_w, int log2_h, double& x, double& y) {
  const double centre_x = log2_w ? 1.0 : 0.5, centre_y = log2_h ? 1.0 : 0.5;
  x = 0.5;
  y = centre_y;
  switch (location) {
    case AVCHROMA_LOC_CENTER:
      x = centre_x;
      break;
    case AVCHROMA_LOC_TOPLEFT:
      y = 0.5;
      break;
    case AVCHROMA_LOC_TOP:
      x = centre_x;
      y = 0.5;
      break;
    case AVCHROMA_LOC_BOTTOMLEFT:
      y = log2_h ? 1.5 : 0.5;
      break;
    case AVCHROMA_LOC_BOTTOM:
      x = centre_x;
      y = log2_h ? 1.5 : 0.5;
      break;
    default:
      break;
  }
}

bool is_gray(const AVPixFmtDescriptor& d) { return d.nb_components <= 2; }
bool is_rgb(const AVPixFmtDescriptor& d) {
  return (d.flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL)) != 0;
}

bool has_integer_planes(const AVPixFmtDescriptor* d) {
  if (d == nullptr ||
      (d->flags & (AV_PIX_FMT_FLAG_BE | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_HWACCEL |
                   AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BITSTREAM)))
    return false;
  if (d->comp[0].depth < 8 || d->comp[0].depth > 16) return false;
  const int bytes = (d->comp[0].depth + 7) / 8;
  for (int i = 0; i < (is_gray(*d) ? 1 : 3); ++i) {
    const AVComponentDescriptor& c = d->comp[i];
    if (c.step != bytes || c.shift != 0 || c.offset != 0 || c.depth != d->comp[0].depth)
      return false;
    if (!is_rgb(*d) && c.plane != i) return false;
  }
  return true;
}

// The crop in coded pixels: turned back, then pixels made as wide as they are stored.
CropRect coded_crop(const AVFrame& frame, const PixelGeometry& geometry) {
  const CropRect& c = geometry.crop;
  const double display_w = geometry.stream.display_width();
  const double display_h = geometry.stream.display_height();
  CropRect coded = c;
  switch (geometry.stream.rotation) {
    case 90:
      coded = {c.y, display_w - c.x - c.width, c.height, c.width};
      break;
    case 180:
      coded = {display_w - c.x - c.width, display_h - c.y - c.height, c.width, c.height};
      break;
    case 270:
      coded = {display_h - c.y - c.height, c.x, c.height, c.width};
      break;
    default:
      break;
  }
  const bool sideways = geometry.stream.rotation % 180 != 0;
  const double sx = frame.width / (sideways ? display_h : display_w);
  const double sy = frame.height / (sideways ? display_w : display_h);
  return {coded.x * sx, coded.y * sy, coded.width * sx, coded.height * sy};
}

ColourEquations colour_of(const AVFrame& frame, const StreamParameters& stream, bool gray,
                          int depth) {
  const bool is_j = frame.format == AV_PIX_FMT_YUVJ420P || frame.format == AV_PIX_FMT_YUVJ422P ||
                    frame.format == AV_PIX_FMT_YUVJ444P || frame.format == AV_PIX_FMT_YUVJ440P ||
                    frame.format == AV_PIX_FMT_YUVJ411P;
  const int range =
      frame.color_range != AVCOL_RANGE_UNSPECIFIED ? int(frame.color_range) : stream.color_range;
  const bool full = is_j || range == AVCOL_RANGE_JPEG || (gray && range == 0);
  const int space =
      frame.colorspace != AVCOL_SPC_UNSPECIFIED ? int(frame.colorspace) : stream.color_space;
  const Matrix m = matrix_of(space);
  // H.273 equations 20 to 40.
  const double levels = double(1 << (depth - 8));
  const double peak = full ? 256 * levels - 1 : 219 * levels;
  const double chroma_gain = 255 / (full ? 256 * levels - 1 : 224 * levels);
  const double kg = 1 - m.kr - m.kb;
  ColourEquations c;
  c.luma_offset = full ? 0 : 16 * levels;
  c.luma_gain = 255 / peak;
  c.middle = 128 * levels;
  c.r_v = 2 * (1 - m.kr) * chroma_gain;
  c.b_u = 2 * (1 - m.kb) * chroma_gain;
  c.g_u = -2 * (1 - m.kb) * m.kb / kg * chroma_gain;
  c.g_v = -2 * (1 - m.kr) * m.kr / kg * chroma_gain;
  return c;
}

}  // namespace

Resampling make_resampling(double start, double length, int input, int output, Filter filter) {
  return filter == Filter::kBilinear
             ? resampling_of<Filter::kBilinear>(start, length, input, output)
             : resampling_of<Filter::kBicubic>(start, length, input, output);
}

const AVFrame& as_planes(const AVFrame& frame, FramePointer& copy) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  if (has_integer_planes(d)) return frame;
  if (d == nullptr) fail(ErrorKind::kData, "pixel format {} is unknown to FFmpeg", frame.format);
  const bool deep = d->comp[0].depth > 8;
  const AVPixelFormat target = is_rgb(*d) ? (deep ? AV_PIX_FMT_GBRP16LE : AV_PIX_FMT_GBRP)
                                          : (deep ? AV_PIX_FMT_YUV444P16LE : AV_PIX_FMT_YUV444P);
  SwsContext* sws = sws_getContext(
      frame.width, frame.height, AVPixelFormat(frame.format), frame.width, frame.height, target,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, nullptr, nullptr,
      nullptr);
  if (sws == nullptr) fail(ErrorKind::kData, "pixel format {} cannot be converted", d->name);
  copy.reset(av_frame_alloc());
  copy->format = target;
  copy->width = frame.width;
  copy->height = frame.height;
  copy->color_range = frame.color_range;
  copy->colorspace = frame.colorspace;
  av_frame_get_buffer(copy.get(), 0);
  sws_scale(sws, frame.data, frame.linesize, 0, frame.height, copy->data, copy->linesize);
  sws_freeContext(sws);
  return *copy;
}

bool same_kind(const AVFrame& a, const AVFrame& b) {
  return a.width == b.width && a.height == b.height && a.format == b.format &&
         a.chroma_location == b.chroma_location && a.color_range == b.color_range &&
         a.colorspace == b.colorspace;
}

ConversionPlan plan_conversion(const AVFrame& frame, const PixelGeometry& geometry) {
  const AVPixFmtDescriptor& d = *av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const CropRect coded = coded_crop(frame, geometry);
  const bool sideways = geometry.stream.rotation % 180 != 0;
  const int width = sideways ? geometry.out_height : geometry.out_width;
  const int height = sideways ? geometry.out_width : geometry.out_height;
  ConversionPlan plan;
  plan.depth = d.comp[0].depth;
  plan.luma_x = {coded.x, coded.width, frame.width, width};
  plan.luma_y = {coded.y, coded.height, frame.height, height};
  for (int i = 0; i < std::min<int>(3, d.nb_components); ++i) plan.plane[i] = d.comp[i].plane;
  if (is_rgb(d)) {
    plan.kind = ConversionPlan::Kind::kRgb;
    plan.colour.luma_gain = 255.0 / ((1 << plan.depth) - 1);
    return plan;
  }
  plan.colour = colour_of(frame, geometry.stream, is_gray(d), plan.depth);
  if (is_gray(d)) {
    plan.kind = ConversionPlan::Kind::kGray;
    return plan;
  }
  const int location = frame.chroma_location != AVCHROMA_LOC_UNSPECIFIED
                           ? int(frame.chroma_location)
                           : geometry.stream.chroma_location;
  const int lw = d.log2_chroma_w, lh = d.log2_chroma_h;
  double ox = 0, oy = 0;
  chroma_origin(location, lw, lh, ox, oy);
  const double step_x = 1 << lw, step_y = 1 << lh;
  plan.chroma_x = {(coded.x - ox) / step_x + 0.5, coded.width / step_x,
                   AV_CEIL_RSHIFT(frame.width, lw), width};
  plan.chroma_y = {(coded.y - oy) / step_y + 0.5, coded.height / step_y,
                   AV_CEIL_RSHIFT(frame.height, lh), height};
  return plan;
}

Placement place_pixels(const PixelGeometry& geometry, int64_t row_stride) {
  const int64_t last_column = geometry.out_width - 1, last_row = geometry.out_height - 1;
  // Columns and rows of the slot, as (constant, factor of x, factor of y) of the resized picture.
  int64_t column = 0, column_x = 1, column_y = 0, row = 0, row_x = 0, row_y = 1;
  switch (geometry.stream.rotation) {
    case 90:
      column = last_column, column_x = 0, column_y = -1, row_x = 1, row_y = 0;
      break;
    case 180:
      column = last_column, column_x = -1, row = last_row, row_y = -1;
      break;
    case 270:
      column_x = 0, column_y = 1, row = last_row, row_x = -1, row_y = 0;
      break;
    default:
      break;
  }
  if (geometry.flip) {
    column = last_column - column;
    column_x = -column_x;
    column_y = -column_y;
  }
  return {row * row_stride + column, row_x * row_stride + column_x, row_y * row_stride + column_y};
}

}  // namespace keiko::media
