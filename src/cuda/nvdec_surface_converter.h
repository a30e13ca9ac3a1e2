// From NVDEC's surfaces to slots in the device's memory, by the pixel kernels.

#pragma once
#include <memory>

#include "cuda/nvdec_clip_decoder.h"

namespace keiko::cuda {

// On `device`, with a stream of its own. Slots are in the device's memory. One a thread. Throws
// Error when there is no such device.
std::unique_ptr<SurfaceConverter> make_surface_converter(int device);

}  // namespace keiko::cuda
