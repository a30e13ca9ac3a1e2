// What a frame and a geometry come to in numbers, for the reference and the fast way alike.
//
// Which stretch of each plane becomes the picture, the colour equations, and where a pixel lies in
// the slot.

#pragma once
#include <cstdint>

#include "media/pixels.h"

namespace keiko::media {

// One axis of a plane: [start, start + length) of `input` samples becomes `output` samples.
struct AxisSpan {
  double start = 0, length = 0;
  int input = 0, output = 0;
};

// ITU-T H.273, from code values to RGB in [0, 255]:
//   red = luma_gain * (y - luma_offset) + r_v * (v - middle), and so on.
struct ColourEquations {
  double luma_offset = 0, luma_gain = 1, middle = 0;
  double r_v = 0, g_u = 0, g_v = 0, b_u = 0;
};

struct ConversionPlan {
  enum class Kind { kGray, kYuv, kRgb } kind = Kind::kYuv;
  int depth = 8;                // bits of a sample; above 8 a sample takes two bytes
  int plane[3] = {0, 1, 2};     // of the frame: luma and chroma, or red, green, blue
  AxisSpan luma_x, luma_y;      // of plane[0], and of all planes of RGB
  AxisSpan chroma_x, chroma_y;  // of plane[1] and plane[2] when kind is kYuv
  ColourEquations colour;       // luma_gain alone when kind is kRgb
};

// A frame whose samples lie in planes as native integers: `frame` itself or, for rare formats
// (packed, palette, big-endian), a copy that swscale makes in `copy`. Throws Error(kData) when
// FFmpeg cannot convert the format.
const AVFrame& as_planes(const AVFrame& frame, FramePointer& copy);

// Whether plan_conversion would say the same of both frames.
bool same_kind(const AVFrame& a, const AVFrame& b);

// `frame` comes from as_planes. A frame of another size than the stream's (a change in
// mid-stream) is stretched to it.
ConversionPlan plan_conversion(const AVFrame& frame, const PixelGeometry& geometry);

// Column `x` of row `y` of the resized, not yet turned picture goes to
// start + x * right + y * down in each plane of the slot.
struct Placement {
  int64_t start = 0, right = 0, down = 0;
};
Placement place_pixels(const PixelGeometry& geometry, int64_t row_stride);

}  // namespace keiko::media
