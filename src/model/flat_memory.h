// Memory for long vectors, straight from the system and back to it at once.
//
// malloc keeps what it gets back, in pieces between what lives longer: memory that is given and
// taken in every step, as sharding does, would never be saved.

#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace keiko::model {

// Zeros; pages cost nothing until they are written. Throws Error(kIo) when there is no memory.
at::DataPtr map_memory(size_t bytes);

// A vector of zeros on the CPU, in memory of its own where it is long enough for that to pay.
at::Tensor flat_zeros(int64_t numbers, at::ScalarType dtype);
// The same on any device; elsewhere than on the CPU torch's allocator has the memory.
at::Tensor flat_zeros(int64_t numbers, at::ScalarType dtype, at::Device device);
// As long as `vector`, of its dtype, on its device.
at::Tensor flat_zeros_like(const at::Tensor& vector);

}  // namespace keiko::model
