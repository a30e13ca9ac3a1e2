// From a GPU decoder's surface to RGB pixels in a batch slot on the same GPU: crop, resize, colour,
// turn, mirror, in one kernel pass.
//
// The pixels are those that media/pixels.h defines, computed in float32: at most one level from
// media::ReferencePixels, and nearly everywhere equal. The reference here gives the kernel's bits
// on any machine.

#pragma once
#include <cstdint>
#include <memory>

#include "cuda/stream.h"
#include "cuda/surface_plan.h"
#include "media/pixels.h"

namespace keiko::cuda {

// Keeps its tables on the device while frame kind and geometry stay the same. Not thread-safe.
class SurfacePixels {
 public:
  // Throws Error when this Keiko was built without CUDA.
  SurfacePixels();
  // The device must still be there; waits for nothing, so no conversion may be under way.
  ~SurfacePixels();
  SurfacePixels(SurfacePixels&&) noexcept;

  // Adds the conversion to `stream`: out_height rows of out_width bytes, `row_stride` apart, in
  // each of the three planes `red`, `green` and `blue` on the stream's device. frame.format is the
  // software format (NV12, P010LE, P016LE, YUV444P, YUV444P16LE); frame.data and frame.linesize are
  // of the device, and must stay as they are until the stream has done the work. All calls must be
  // for the device of the first. Throws Error(kInternal) for other formats, Error(kIo) when the
  // device fails.
  void convert(const AVFrame& frame, const media::PixelGeometry& geometry, uint8_t* red,
               uint8_t* green, uint8_t* blue, int64_t row_stride, const Stream& stream);

 private:
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

// The same to the bit, of frames in host memory and on the CPU; slow. Not thread-safe.
class SurfacePixelsReference {
 public:
  void convert(const AVFrame& frame, const media::PixelGeometry& geometry, uint8_t* red,
               uint8_t* green, uint8_t* blue, int64_t row_stride);

 private:
  SurfacePlan plan_;
};

}  // namespace keiko::cuda
