// The reference: every plane resampled in float64, then the colour equations, then one rounding.

#include <algorithm>
#include <cmath>

#include "media/pixels_plan.h"

namespace keiko::media {
namespace {

// One plane, resampled: y.output rows of x.output values.
template <class Sample>
std::vector<double> resize_plane(const AVFrame& frame, int plane, const AxisSpan& x,
                                 const AxisSpan& y, Filter filter) {
  const Resampling columns = make_resampling(x.start, x.length, x.input, x.output, filter);
  const Resampling rows = make_resampling(y.start, y.length, y.input, y.output, filter);
  std::vector<double> out(size_t(x.output) * y.output);
  std::vector<double> row(size_t(x.input));
  for (int i = 0; i < y.output; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int k = 0; k < rows.taps; ++k) {
      const double weight = rows.weights[size_t(i) * rows.taps + k];
      const auto* line = reinterpret_cast<const Sample*>(
          frame.data[plane] + int64_t(rows.first[i] + k) * frame.linesize[plane]);
      for (int j = columns.low; j < columns.high; ++j) row[j] += weight * line[j];
    }
    for (int j = 0; j < x.output; ++j) {
      double sum = 0;
      for (int k = 0; k < columns.taps; ++k)
        sum += columns.weights[size_t(j) * columns.taps + k] * row[columns.first[j] + k];
      out[size_t(i) * x.output + j] = sum;
    }
  }
  return out;
}

std::vector<double> resize_plane(const AVFrame& frame, const ConversionPlan& plan, int index,
                                 Filter filter) {
  const bool chroma = plan.kind == ConversionPlan::Kind::kYuv && index > 0;
  const AxisSpan& x = chroma ? plan.chroma_x : plan.luma_x;
  const AxisSpan& y = chroma ? plan.chroma_y : plan.luma_y;
  return plan.depth > 8 ? resize_plane<uint16_t>(frame, plan.plane[index], x, y, filter)
                        : resize_plane<uint8_t>(frame, plan.plane[index], x, y, filter);
}

uint8_t to_byte(double value) { return uint8_t(std::clamp(std::floor(value + 0.5), 0.0, 255.0)); }

}  // namespace

void ReferencePixels::convert(const AVFrame& original, const PixelGeometry& geometry, uint8_t* red,
                              uint8_t* green, uint8_t* blue, int64_t row_stride) {
  FramePointer copy;
  const AVFrame& frame = as_planes(original, copy);
  const ConversionPlan plan = plan_conversion(frame, geometry);
  const ColourEquations& c = plan.colour;
  const Placement place = place_pixels(geometry, row_stride);
  const bool gray = plan.kind == ConversionPlan::Kind::kGray;
  const std::vector<double> first = resize_plane(frame, plan, 0, geometry.filter);
  std::vector<double> second, third;
  if (!gray) {
    second = resize_plane(frame, plan, 1, geometry.filter);
    third = resize_plane(frame, plan, 2, geometry.filter);
  }
  for (int i = 0; i < plan.luma_y.output; ++i)
    for (int j = 0; j < plan.luma_x.output; ++j) {
      const size_t from = size_t(i) * plan.luma_x.output + j;
      const int64_t to = place.start + j * place.right + i * place.down;
      const double luma = (first[from] - c.luma_offset) * c.luma_gain;
      if (gray) {
        red[to] = green[to] = blue[to] = to_byte(luma);
      } else if (plan.kind == ConversionPlan::Kind::kRgb) {
        red[to] = to_byte(luma);
        green[to] = to_byte(second[from] * c.luma_gain);
        blue[to] = to_byte(third[from] * c.luma_gain);
      } else {
        const double u = second[from] - c.middle, v = third[from] - c.middle;
        red[to] = to_byte(luma + c.r_v * v);
        green[to] = to_byte(luma + c.g_u * u + c.g_v * v);
        blue[to] = to_byte(luma + c.b_u * u);
      }
    }
}

}  // namespace keiko::media
