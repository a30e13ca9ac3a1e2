#include <vector>

#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

// One output row of a plane: `blended` holds the plane's columns from the first that is read.
template <class Sample>
void resize_row(const SurfacePlane& plane, const SurfaceAxis& columns, const SurfaceAxis& rows,
                int width, int y, std::vector<float>& blended, std::vector<float>& out) {
  const int begin = columns.first[0], end = columns.first[width - 1] + columns.taps;
  blended.resize(size_t(end - begin));
  out.resize(size_t(width));
  for (int x = begin; x < end; ++x)
    blended[size_t(x - begin)] = blend_rows<Sample>(plane, rows, y, x);
  for (int x = 0; x < width; ++x)
    out[size_t(x)] = blend_columns(blended.data() + (columns.first[x] - begin), columns, x);
}

template <class Sample>
void convert_all(const SurfaceTask& task) {
  std::vector<float> blended, luma, u(size_t(task.width)), v(size_t(task.width));
  for (int y = 0; y < task.height; ++y) {
    resize_row<Sample>(task.luma, task.luma_x, task.luma_y, task.width, y, blended, luma);
    if (task.has_chroma) {
      resize_row<Sample>(task.chroma[0], task.chroma_x, task.chroma_y, task.width, y, blended, u);
      resize_row<Sample>(task.chroma[1], task.chroma_x, task.chroma_y, task.width, y, blended, v);
    }
    for (int x = 0; x < task.width; ++x)
      store_pixel(task, x, y, luma[size_t(x)], u[size_t(x)], v[size_t(x)]);
  }
}

}  // namespace

void SurfacePixelsReference::convert(const AVFrame& frame, const media::PixelGeometry& geometry,
                                     uint8_t* red, uint8_t* green, uint8_t* blue,
                                     int64_t row_stride) {
  plan_.prepare(frame, geometry);
  const SurfaceTask task = plan_.task(frame, plan_.tables().data(), red, green, blue, row_stride);
  if (plan_.has_wide_samples())
    convert_all<uint16_t>(task);
  else
    convert_all<uint8_t>(task);
}

}  // namespace keiko::cuda
