// Recordings as torch's CUDA graphs. A part of the module.

#pragma once
#include <c10/core/Device.h>

#include <memory>

#include "gpu/recorder.h"

namespace keiko::gpu {

std::unique_ptr<Recorder> make_graph_recorder(c10::DeviceIndex index);

}  // namespace keiko::gpu
