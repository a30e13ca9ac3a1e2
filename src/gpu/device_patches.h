// Patches and targets of clips on a GPU by the kernels of src/cuda.

#pragma once
#include "gpu/accelerator.h"
#include "model/device_kernels.h"

namespace keiko::gpu {

// What model/patches.h shall use for tensors on the accelerator's device (model's
// set_device_kernels). The accelerator outlives it. Throws Error(kInternal) for sizes that do not
// fit, Error(kIo) when the device fails.
std::shared_ptr<const model::DeviceKernels> make_device_patches(const Accelerator& accelerator);

}  // namespace keiko::gpu
