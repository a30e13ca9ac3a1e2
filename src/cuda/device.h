// What this build and this machine have of CUDA.
//
// The room `cuda` is in every build. Without the CUDA toolkit its references and host arithmetic
// are whole, and what would run on a GPU throws an error that says how to build Keiko with CUDA.

#pragma once
#include <cstdint>
#include <string>

// What the CUDA runtime calls cudaStream_t and cudaEvent_t, so that headers need no CUDA header.
struct CUstream_st;
struct CUevent_st;

namespace keiko::cuda {

using StreamHandle = CUstream_st*;
using EventHandle = CUevent_st*;

// Whether Keiko was built with CUDA.
bool is_built();

// GPUs that this process may use; 0 without CUDA, without a driver, or with a driver too old.
int device_count();

// Why device_count() is 0, as a sentence to show; empty when it is not.
std::string why_no_device();

// The GPU's name, such as "NVIDIA H100 80GB HBM3". Throws Error when there is no such device.
std::string device_name(int device);

// Of the device's memory, in bytes.
struct DeviceMemory {
  int64_t free = 0, total = 0;
};
DeviceMemory device_memory(int device);

// Makes `device` this thread's own while it lives, and the one before again afterwards. Memory,
// streams and kernels belong to the device that is the thread's when they are made.
class DeviceScope {
 public:
  // Throws Error when there is no such device.
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

}  // namespace keiko::cuda
