#include "cuda/surface_plan.h"

#include <algorithm>
#include <cstring>

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "base/error.h"

namespace keiko::cuda {
namespace {

const char* name_of(int format) {
  const char* name = av_get_pix_fmt_name(AVPixelFormat(format));
  return name != nullptr ? name : "unknown";
}

const AVPixFmtDescriptor& surface_descriptor(int format) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(format));
  constexpr uint64_t kOther = AV_PIX_FMT_FLAG_BE | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_HWACCEL |
                              AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_BITSTREAM |
                              AV_PIX_FMT_FLAG_RGB;
  bool fits = d != nullptr && (d->flags & kOther) == 0;
  if (fits) {
    const int bytes = d->comp[0].depth > 8 ? 2 : 1;
    const int components = std::min<int>(3, d->nb_components);
    fits = components != 2 && d->comp[0].step == bytes && d->comp[0].depth >= 8;
    for (int i = 0; i < components; ++i)
      fits = fits && d->comp[i].depth == d->comp[0].depth && d->comp[i].shift == d->comp[0].shift &&
             d->comp[i].step % bytes == 0 && (i == 0 || d->comp[i].plane > 0);
  }
  if (!fits)
    fail(ErrorKind::kInternal,
         "surfaces of pixel format {} cannot be converted; the kernel takes luma and chroma in "
         "whole "
         "bytes, such as nv12, p010le and yuv444p",
         name_of(format));
  return *d;
}

// Surfaces have fewer formats than streams: 12 bits come in words of 16, with the value on top, and
// full range has no format of its own. What the samples mean is what the CPU decoder would say, so
// the plan is made for the stream's format where the surface can hold it.
int meaning_of(const AVPixFmtDescriptor& surface, int surface_format,
               const media::StreamParameters& stream) {
  const AVPixelFormat format = av_get_pix_fmt(stream.pixel_format.c_str());
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(format);
  if (d == nullptr || d->nb_components == 2 || (d->flags & AV_PIX_FMT_FLAG_PAL) != 0)
    return surface_format;
  const bool is_gray = d->nb_components == 1;
  const bool same_chroma = d->log2_chroma_w == surface.log2_chroma_w &&
                           d->log2_chroma_h == surface.log2_chroma_h && surface.nb_components >= 3;
  const int room = surface.comp[0].depth + surface.comp[0].shift;
  const bool same_width = (d->comp[0].depth > 8) == (room > 8) && d->comp[0].depth <= room;
  return same_width && (is_gray || same_chroma) ? int(format) : surface_format;
}

template <class T>
int64_t append(std::vector<uint8_t>& bytes, const std::vector<T>& values) {
  const size_t at = bytes.size();
  bytes.resize(at + values.size() * sizeof(T));
  std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
  return int64_t(at);
}

// Where `outputs`' windows begin and how long they must be when taps that are zero are left out.
// Windows never start before the one of the output before, because tiles read from the first
// output's on.
int trim(const media::Resampling& r, std::vector<int32_t>& begin) {
  const int outputs = int(r.first.size());
  begin.resize(size_t(outputs));
  int taps = 1;
  for (int i = outputs - 1; i >= 0; --i) {
    const double* w = r.weights.data() + size_t(i) * size_t(r.taps);
    int from = 0, to = r.taps;
    while (from < to - 1 && w[from] == 0) ++from;
    while (to > from + 1 && w[to - 1] == 0) --to;
    begin[size_t(i)] = r.first[size_t(i)] + from;
    if (i + 1 < outputs) begin[size_t(i)] = std::min(begin[size_t(i)], begin[size_t(i) + 1]);
    taps = std::max(taps, r.first[size_t(i)] + to - begin[size_t(i)]);
  }
  return taps;
}

}  // namespace

bool SurfacePlan::prepare(const AVFrame& frame, const media::PixelGeometry& geometry) {
  if (kind_ != nullptr && media::same_kind(frame, *kind_) && geometry == geometry_) return false;
  const AVPixFmtDescriptor& d = surface_descriptor(frame.format);
  kind_.reset(av_frame_alloc());
  kind_->width = frame.width;
  kind_->height = frame.height;
  kind_->chroma_location = frame.chroma_location;
  kind_->color_range = frame.color_range;
  kind_->colorspace = frame.colorspace;
  kind_->format = meaning_of(d, frame.format, geometry.stream);
  plan_ = media::plan_conversion(*kind_, geometry);
  kind_->format = frame.format;
  geometry_ = geometry;
  if (plan_.kind == media::ConversionPlan::Kind::kRgb) {
    kind_.reset();
    fail(ErrorKind::kInternal,
         "surfaces of a stream in RGB ({}) cannot be converted; decode it on the CPU",
         geometry.stream.pixel_format);
  }
  const int room = d.comp[0].depth + d.comp[0].shift;
  shift_ = room - plan_.depth;
  has_wide_samples_ = room > 8;
  tables_.clear();
  luma_x_ = add_axis(plan_.luma_x, geometry.filter);
  luma_y_ = add_axis(plan_.luma_y, geometry.filter);
  chroma_x_ = chroma_y_ = Axis();
  if (plan_.kind == media::ConversionPlan::Kind::kYuv) {
    chroma_x_ = add_axis(plan_.chroma_x, geometry.filter);
    chroma_y_ = add_axis(plan_.chroma_y, geometry.filter);
  }
  return true;
}

SurfacePlan::Axis SurfacePlan::add_axis(const media::AxisSpan& span, media::Filter filter) {
  const media::Resampling r =
      media::make_resampling(span.start, span.length, span.input, span.output, filter);
  std::vector<int32_t> first;
  const int taps = trim(r, first);
  std::vector<float> weights(size_t(span.output) * size_t(taps));
  for (int i = 0; i < span.output; ++i) {
    const int old = r.first[size_t(i)];
    first[size_t(i)] = std::min(first[size_t(i)], span.input - taps);  // the end of the picture
    for (int k = 0; k < taps; ++k) {
      const int from = first[size_t(i)] + k - old;
      if (from >= 0 && from < r.taps)
        weights[size_t(i) * size_t(taps) + size_t(k)] =
            float(r.weights[size_t(i) * size_t(r.taps) + size_t(from)]);
    }
  }
  Axis axis;
  axis.outputs = span.output;
  axis.taps = taps;
  axis.first = append(tables_, first);
  axis.weights = append(tables_, weights);
  return axis;
}

SurfaceAxis SurfacePlan::axis_at(const Axis& axis, const void* tables) const {
  const auto* bytes = static_cast<const uint8_t*>(tables);
  return {reinterpret_cast<const int32_t*>(bytes + axis.first),
          reinterpret_cast<const float*>(bytes + axis.weights), int32_t(axis.taps)};
}

SurfaceTask SurfacePlan::task(const AVFrame& frame, const void* tables, uint8_t* red,
                              uint8_t* green, uint8_t* blue, int64_t row_stride) const {
  const AVPixFmtDescriptor& d = *av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const int bytes = has_wide_samples_ ? 2 : 1;
  const auto plane_of = [&](int component) {
    const AVComponentDescriptor& c = d.comp[component];
    if (frame.linesize[c.plane] % bytes != 0)
      fail(ErrorKind::kInternal, "rows of a {} surface are {} bytes apart, not a multiple of {}",
           name_of(frame.format), frame.linesize[c.plane], bytes);
    return SurfacePlane{frame.data[c.plane] + c.offset, frame.linesize[c.plane] / bytes,
                        int32_t(c.step / bytes), int32_t(shift_)};
  };
  const media::ColourEquations& c = plan_.colour;
  const media::Placement place = media::place_pixels(geometry_, row_stride);
  SurfaceTask task{};
  task.luma = plane_of(0);
  task.luma_x = axis_at(luma_x_, tables);
  task.luma_y = axis_at(luma_y_, tables);
  task.has_chroma = plan_.kind == media::ConversionPlan::Kind::kYuv;
  if (task.has_chroma) {
    task.chroma[0] = plane_of(1);
    task.chroma[1] = plane_of(2);
    task.chroma_x = axis_at(chroma_x_, tables);
    task.chroma_y = axis_at(chroma_y_, tables);
  }
  task.colour = {float(c.luma_offset), float(c.luma_gain), float(c.middle), float(c.r_v),
                 float(c.g_u),         float(c.g_v),       float(c.b_u)};
  task.width = plan_.luma_x.output;
  task.height = plan_.luma_y.output;
  task.slot[0] = red;
  task.slot[1] = green;
  task.slot[2] = blue;
  task.start = place.start;
  task.right = place.right;
  task.down = place.down;
  return task;
}

int SurfacePlan::columns_read(int outputs) const {
  int most = 0;
  for (const Axis* axis : {&luma_x_, &chroma_x_}) {
    const int32_t* first = axis_at(*axis, tables_.data()).first;
    for (int from = 0; from < axis->outputs; from += outputs) {
      const int last = std::min(from + outputs, axis->outputs) - 1;
      most = std::max(most, first[last] + axis->taps - first[from]);
    }
  }
  return most;
}

}  // namespace keiko::cuda
