// Collectives between GPUs by NCCL, and between hosts by another communicator.

#pragma once
#include <memory>

#include "dist/communicator.h"

namespace keiko::gpu {

// As Accelerator::make_communicator.
std::unique_ptr<dist::Communicator> make_nccl_communicator(dist::Communicator& host,
                                                           at::Device device, double timeout_s);

}  // namespace keiko::gpu
