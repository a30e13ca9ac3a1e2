// From NVDEC's surfaces to slots in the device's memory, by the pixel kernels.

#pragma once
#include <memory>

#include "cuda/nvdec_clip_decoder.h"

namespace keiko::cuda {

// On GPU `device`, with a stream of its own; surfaces are written in the order of `surface_stream`
// (NvdecDevice::surface_stream), which outlives it. Slots are in the GPU's memory. One a thread.
// Throws Error when there is no such device.
std::unique_ptr<SurfaceConverter> make_surface_converter(int device, StreamHandle surface_stream);

}  // namespace keiko::cuda
