// What a surface and a geometry come to: the tables that kernel and reference read, and which
// samples of the surface belong to which component.
//
// A surface is a frame of a GPU decoder: the software format says how its samples lie, and the
// stream's own format says what they mean.

#pragma once
#include <cstdint>
#include <vector>

#include "cuda/surface_arithmetic.h"
#include "media/pixels.h"
#include "media/pixels_plan.h"

namespace keiko::cuda {

// The tables of one frame kind and geometry, in one piece of memory, so that one copy brings them
// to the device.
class SurfacePlan {
 public:
  // Makes the tables for `frame` (of whose fields only format, size and colour are read), unless
  // they are there already. Returns whether they are new. Throws Error(kInternal) for formats whose
  // samples are not luma, or luma and chroma, in whole bytes (RGB, packed, big-endian).
  bool prepare(const AVFrame& frame, const media::PixelGeometry& geometry);

  const std::vector<uint8_t>& tables() const { return tables_; }

  // The task whose tables are a copy of tables() at `tables`, aligned to 4 bytes, and whose samples
  // are frame.data; for the geometry of prepare(). Throws Error(kInternal) for a frame whose rows
  // are not a whole number of samples apart.
  SurfaceTask task(const AVFrame& frame, const void* tables, uint8_t* red, uint8_t* green,
                   uint8_t* blue, int64_t row_stride) const;

  // The most input columns that `outputs` neighbouring output columns, from a multiple of `outputs`
  // on, read from any plane.
  int columns_read(int outputs) const;

  bool has_wide_samples() const { return has_wide_samples_; }  // of two bytes

 private:
  struct Axis {
    int64_t first = 0, weights = 0;  // bytes from the start of tables_
    int taps = 0, outputs = 0;
  };
  Axis add_axis(const media::AxisSpan& span, media::Filter filter);
  SurfaceAxis axis_at(const Axis& axis, const void* tables) const;

  media::PixelGeometry geometry_;
  media::FramePointer kind_;  // what the tables are for; no pixels
  media::ConversionPlan plan_;
  std::vector<uint8_t> tables_;
  Axis luma_x_, luma_y_, chroma_x_, chroma_y_;
  bool has_wide_samples_ = false;
  int shift_ = 0;
};

}  // namespace keiko::cuda
