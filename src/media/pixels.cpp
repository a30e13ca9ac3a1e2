#include "media/pixels.h"

#include <algorithm>
#include <cmath>

extern "C" {
#include <libavutil/imgutils.h>
#include <libavutil/md5.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include "base/error.h"

// Hot loops are compiled for several instruction sets; the loader picks one at start.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define KEIKO_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KEIKO_CLONES
#endif

namespace keiko::media {
namespace {

double filter_value(Filter filter, double x) {
  x = std::abs(x);
  if (filter == Filter::kBilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;  // Keys, "Cubic convolution interpolation", 1981
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// sum[x] += weight * row[x]
KEIKO_CLONES void add_row(float* sum, const uint8_t* row, float weight, int n) {
  for (int x = 0; x < n; ++x) sum[x] += weight * float(row[x]);
}
KEIKO_CLONES void add_row(float* sum, const uint16_t* row, float weight, int n) {
  for (int x = 0; x < n; ++x) sum[x] += weight * float(row[x]);
}
void add_row(double* sum, const uint8_t* row, double weight, int n) {
  for (int x = 0; x < n; ++x) sum[x] += weight * double(row[x]);
}
void add_row(double* sum, const uint16_t* row, double weight, int n) {
  for (int x = 0; x < n; ++x) sum[x] += weight * double(row[x]);
}

template <class Real>
void combine_columns(const Real* row, const Resampling<Real>& axis, Real* out) {
  const int n = int(axis.first.size());
  for (int i = 0; i < n; ++i) {
    const Real* in = row + (axis.first[i] - axis.low);
    const Real* weight = axis.weights.data() + size_t(i) * axis.taps;
    Real sum = 0;
    for (int k = 0; k < axis.taps; ++k) sum += weight[k] * in[k];
    out[i] = sum;
  }
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

bool is_planar_integer(const AVPixFmtDescriptor* d) {
  if (d == nullptr ||
      (d->flags & (AV_PIX_FMT_FLAG_BE | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_HWACCEL |
                   AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BITSTREAM)))
    return false;
  if (d->comp[0].depth > 16) return false;
  const bool gray = d->nb_components <= 2 && d->comp[0].plane == 0;
  const int bytes = (d->comp[0].depth + 7) / 8;
  for (int i = 0; i < (gray ? 1 : 3); ++i)
    if (d->comp[i].plane != i || d->comp[i].step != bytes || d->comp[i].shift != 0) return false;
  return gray || !(d->flags & AV_PIX_FMT_FLAG_RGB);
}

uint8_t to_byte(double value) { return uint8_t(std::clamp(std::floor(value + 0.5), 0.0, 255.0)); }
uint8_t to_byte(float value) { return uint8_t(std::min(std::max(value + 0.5f, 0.0f), 255.0f)); }

}  // namespace

template <class Real>
Resampling<Real> make_resampling(double start, double length, int input, int output,
                                 Filter filter) {
  const double scale = length / output;
  const double stretch = std::max(scale, 1.0);
  const double radius = (filter == Filter::kBilinear ? 1.0 : 2.0) * stretch;
  Resampling<Real> r;
  r.taps = std::min(input, int(std::ceil(radius)) * 2 + 1);
  r.first.resize(output);
  r.weights.assign(size_t(output) * r.taps, Real(0));
  r.low = input;
  for (int i = 0; i < output; ++i) {
    const double centre = start + (i + 0.5) * scale;
    int from = int(std::floor(centre - radius + 0.5));
    from = std::clamp(from, 0, input - r.taps);
    r.first[i] = from;
    std::vector<double> w(r.taps);
    double sum = 0;
    for (int k = 0; k < r.taps; ++k) {
      w[k] = filter_value(filter, (from + k + 0.5 - centre) / stretch);
      sum += w[k];
    }
    if (sum == 0) {  // the crop lies outside the picture: take the nearest sample
      w[std::clamp(int(centre) - from, 0, r.taps - 1)] = sum = 1;
    }
    for (int k = 0; k < r.taps; ++k) r.weights[size_t(i) * r.taps + k] = Real(w[k] / sum);
    r.low = std::min(r.low, from);
    r.high = std::max(r.high, from + r.taps);
  }
  return r;
}

template <class Real>
void PixelConverter<Real>::prepare(const AVFrame& frame, const Geometry& geometry) {
  if (geometry == geometry_ && frame.width == frame_width_ && frame.height == frame_height_ &&
      frame.format == format_)
    return;
  geometry_ = geometry;
  frame_width_ = frame.width;
  frame_height_ = frame.height;
  format_ = frame.format;

  // The crop in coded pixels: turned back, then pixels made as wide as they are stored.
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
  const double turned_w = geometry.stream.rotation % 180 == 0 ? display_w : display_h;
  const double turned_h = geometry.stream.rotation % 180 == 0 ? display_h : display_w;
  // A frame of another size than the stream says (a change in mid-stream) is stretched to it.
  const double sx = frame.width / turned_w, sy = frame.height / turned_h;
  coded = {coded.x * sx, coded.y * sy, coded.width * sx, coded.height * sy};

  const bool sideways = geometry.stream.rotation % 180 != 0;
  resize_width_ = sideways ? geometry.out_height : geometry.out_width;
  resize_height_ = sideways ? geometry.out_width : geometry.out_height;
  luma_.x =
      make_resampling<Real>(coded.x, coded.width, frame.width, resize_width_, geometry.filter);
  luma_.y =
      make_resampling<Real>(coded.y, coded.height, frame.height, resize_height_, geometry.filter);

  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  if (d->nb_components < 3) return;
  const int lw = d->log2_chroma_w, lh = d->log2_chroma_h;
  const int location = frame.chroma_location != AVCHROMA_LOC_UNSPECIFIED
                           ? int(frame.chroma_location)
                           : geometry.stream.chroma_location;
  double ox = 0, oy = 0;
  chroma_origin(location, lw, lh, ox, oy);
  const double step_x = 1 << lw, step_y = 1 << lh;
  chroma_.x =
      make_resampling<Real>((coded.x - ox) / step_x + 0.5, coded.width / step_x,
                            AV_CEIL_RSHIFT(frame.width, lw), resize_width_, geometry.filter);
  chroma_.y =
      make_resampling<Real>((coded.y - oy) / step_y + 0.5, coded.height / step_y,
                            AV_CEIL_RSHIFT(frame.height, lh), resize_height_, geometry.filter);
}

template <class Real>
const AVFrame* PixelConverter<Real>::to_planar(const AVFrame& frame) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  if (is_planar_integer(d)) return &frame;
  // Rare formats (packed, palette, RGB) go through swscale to 4:4:4 once.
  const bool deep = d != nullptr && d->comp[0].depth > 8;
  const AVPixelFormat target = deep ? AV_PIX_FMT_YUV444P16LE : AV_PIX_FMT_YUV444P;
  SwsContext* sws = sws_getContext(
      frame.width, frame.height, AVPixelFormat(frame.format), frame.width, frame.height, target,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, nullptr, nullptr,
      nullptr);
  if (sws == nullptr)
    fail(ErrorKind::kData, "pixel format {} cannot be converted",
         d == nullptr ? "unknown" : d->name);
  planar_.reset(av_frame_alloc());
  planar_->format = target;
  planar_->width = frame.width;
  planar_->height = frame.height;
  planar_->color_range = frame.color_range;
  planar_->colorspace = frame.colorspace;
  if (d->flags & AV_PIX_FMT_FLAG_RGB) {  // swscale makes limited-range BT.601 from RGB
    planar_->color_range = AVCOL_RANGE_MPEG;
    planar_->colorspace = AVCOL_SPC_SMPTE170M;
  }
  av_frame_get_buffer(planar_.get(), 0);
  sws_scale(sws, frame.data, frame.linesize, 0, frame.height, planar_->data, planar_->linesize);
  sws_freeContext(sws);
  return planar_.get();
}

template <class Real>
void PixelConverter<Real>::resize_plane(const AVFrame& frame, int plane, const Axes& axes,
                                        std::vector<Real>& out) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const bool wide = d->comp[plane].depth > 8;
  const int n = axes.x.high - axes.x.low;
  row_.resize(n);
  out.resize(size_t(resize_width_) * resize_height_);
  // Rows first: they are contiguous, so this is where the vector units help.
  for (int i = 0; i < resize_height_; ++i) {
    std::fill(row_.begin(), row_.end(), Real(0));
    for (int k = 0; k < axes.y.taps; ++k) {
      const Real weight = axes.y.weights[size_t(i) * axes.y.taps + k];
      if (weight == 0) continue;
      const uint8_t* line =
          frame.data[plane] + int64_t(axes.y.first[i] + k) * frame.linesize[plane];
      if (wide)
        add_row(row_.data(), reinterpret_cast<const uint16_t*>(line) + axes.x.low, weight, n);
      else
        add_row(row_.data(), line + axes.x.low, weight, n);
    }
    combine_columns(row_.data(), axes.x, out.data() + size_t(i) * resize_width_);
  }
}

template <class Real>
void PixelConverter<Real>::convert(const AVFrame& original, const Geometry& geometry, uint8_t* red,
                                   uint8_t* green, uint8_t* blue, int64_t row_stride) {
  const AVFrame& frame = *to_planar(original);
  prepare(frame, geometry);
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const bool has_chroma = d->nb_components >= 3;
  resize_plane(frame, 0, luma_, y_);
  if (has_chroma) {
    resize_plane(frame, 1, chroma_, u_);
    resize_plane(frame, 2, chroma_, v_);
  }

  // H.273 equations 20 to 40: code values to [0, 255] RGB.
  const bool is_j = frame.format == AV_PIX_FMT_YUVJ420P || frame.format == AV_PIX_FMT_YUVJ422P ||
                    frame.format == AV_PIX_FMT_YUVJ444P || frame.format == AV_PIX_FMT_YUVJ440P;
  const int range = frame.color_range != AVCOL_RANGE_UNSPECIFIED ? int(frame.color_range)
                                                                 : geometry.stream.color_range;
  const bool full = is_j || range == AVCOL_RANGE_JPEG || (!has_chroma && range == 0);
  const int space = frame.colorspace != AVCOL_SPC_UNSPECIFIED ? int(frame.colorspace)
                                                              : geometry.stream.color_space;
  const Matrix m = matrix_of(space);
  const double levels = double(1 << (d->comp[0].depth - 8));
  const double luma_offset = full ? 0 : 16 * levels;
  const double peak = full ? (256 * levels - 1) : 219 * levels;
  const double chroma_peak = full ? (256 * levels - 1) : 224 * levels;
  const double kg = 1 - m.kr - m.kb;
  const Real luma_gain = Real(255 / peak);
  const Real offset = Real(luma_offset), middle = Real(128 * levels);
  const Real r_v = Real(2 * (1 - m.kr) * 255 / chroma_peak);
  const Real b_u = Real(2 * (1 - m.kb) * 255 / chroma_peak);
  const Real g_u = Real(-2 * (1 - m.kb) * m.kb / kg * 255 / chroma_peak);
  const Real g_v = Real(-2 * (1 - m.kr) * m.kr / kg * 255 / chroma_peak);

  // Where the resized picture's (0, 0), right and down lie in the slot.
  int64_t origin = 0, right = 1, down = row_stride;
  const int64_t last_column = geometry.out_width - 1, last_row = geometry.out_height - 1;
  switch (geometry.stream.rotation) {
    case 90:
      origin = last_column;
      right = row_stride;
      down = -1;
      break;
    case 180:
      origin = last_row * row_stride + last_column;
      right = -1;
      down = -row_stride;
      break;
    case 270:
      origin = last_row * row_stride;
      right = -row_stride;
      down = 1;
      break;
    default:
      break;
  }
  if (geometry.flip) {
    // Columns of the slot count backwards: mirror the column part of every step.
    const bool sideways = geometry.stream.rotation % 180 != 0;
    const int64_t column = origin % row_stride;
    origin += last_column - 2 * column;
    (sideways ? down : right) *= -1;
  }
  for (int i = 0; i < resize_height_; ++i) {
    const Real* y = y_.data() + size_t(i) * resize_width_;
    const Real* u = u_.data() + size_t(i) * resize_width_;
    const Real* v = v_.data() + size_t(i) * resize_width_;
    int64_t at = origin + i * down;
    for (int j = 0; j < resize_width_; ++j, at += right) {
      const Real luma = (y[j] - offset) * luma_gain;
      if (!has_chroma) {
        red[at] = green[at] = blue[at] = to_byte(luma);
        continue;
      }
      const Real cb = u[j] - middle, cr = v[j] - middle;
      red[at] = to_byte(luma + r_v * cr);
      green[at] = to_byte(luma + g_u * cb + g_v * cr);
      blue[at] = to_byte(luma + b_u * cb);
    }
  }
}

std::string raw_md5(const AVFrame& frame) {
  const AVPixelFormat format = AVPixelFormat(frame.format);
  const int size = av_image_get_buffer_size(format, frame.width, frame.height, 1);
  if (size < 0) fail(ErrorKind::kData, "a frame has no raw form: {}", ffmpeg_error(size));
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  av_image_copy_to_buffer(bytes.data(), size, frame.data, frame.linesize, format, frame.width,
                          frame.height, 1);
  uint8_t digest[16];
  av_md5_sum(digest, bytes.data(), size);
  std::string text;
  for (uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

template Resampling<float> make_resampling<float>(double, double, int, int, Filter);
template Resampling<double> make_resampling<double>(double, double, int, int, Filter);
template class PixelConverter<float>;
template class PixelConverter<double>;

}  // namespace keiko::media
