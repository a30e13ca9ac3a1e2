#include "cuda/device.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "cuda/error.h"

namespace keiko::cuda {

bool is_built() { return true; }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // having no device is an answer here, and no error of later calls
  return 0;
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  if (status == cudaSuccess) return "no GPU is visible to this process (see CUDA_VISIBLE_DEVICES)";
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver is loaded on this machine";
  return fmt::format("cudaGetDeviceCount: {} (driver for CUDA {}.{}, Keiko was built with {}.{})",
                     cudaGetErrorString(status), driver / 1000, driver % 1000 / 10, runtime / 1000,
                     runtime % 1000 / 10);
}

std::string device_name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return properties.name;
}

DeviceMemory device_memory(int device) {
  const DeviceScope scope(device);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {int64_t(free), int64_t(total)};
}

DeviceScope::DeviceScope(int device) {
  const int status = cudaGetDevice(&before_);
  if (status == cudaSuccess && before_ == device) return;
  if (status != cudaSuccess || cudaSetDevice(device) != cudaSuccess) {
    cudaGetLastError();
    const std::string why = why_no_device();
    fail(ErrorKind::kIo, "GPU {} cannot be used: {}", device,
         why.empty() ? fmt::format("this process sees {} GPUs, numbered from 0", device_count())
                     : why);
  }
}

DeviceScope::~DeviceScope() { cudaSetDevice(before_); }

}  // namespace keiko::cuda
