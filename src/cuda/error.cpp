#include "cuda/error.h"

#include <cuda_runtime_api.h>

#include "base/error.h"

namespace keiko::cuda {
namespace {

// Errors that a call with wrong arguments or a kernel with a bug makes. All others come from
// outside.
bool is_bug(cudaError_t status) {
  switch (status) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidPitchValue:
    case cudaErrorInvalidMemcpyDirection:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
      return true;
    default:
      return false;
  }
}

// "device 0", or that there is none, which the message then explains.
std::string current_device() {
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) return fmt::format("device {}", device);
  cudaGetLastError();
  return "no device";
}

}  // namespace

void check(int code, const char* call) {
  const auto status = cudaError_t(code);
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next, innocent, call would report it again
  fail(is_bug(status) ? ErrorKind::kInternal : ErrorKind::kIo, "{} on {}: {} ({})", call,
       current_device(), cudaGetErrorString(status), cudaGetErrorName(status));
}

void check_allocation(int code, const char* call, int64_t bytes, const char* purpose,
                      bool is_pinned) {
  if (cudaError_t(code) != cudaErrorMemoryAllocation) return check(code, call);
  cudaGetLastError();
  if (is_pinned)
    fail(ErrorKind::kIo,
         "{}: out of pinned host memory for {}: {} bytes wanted; lower loader.prefetch or "
         "batch_size, or raise the memory that this process may lock",
         call, purpose, bytes);
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  fail(ErrorKind::kIo,
       "{} on {}: out of memory for {}: {} bytes wanted, {} of {} bytes free; lower "
       "micro_batch_size, or see what else uses the device (nvidia-smi)",
       call, current_device(), purpose, bytes, free, total);
}

}  // namespace keiko::cuda
