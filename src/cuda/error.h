// From the CUDA runtime's status codes to Keiko's errors.
//
// Every error names the call and the device. Only the room `cuda` and rooms that call the runtime
// need this; none of it exists in a build without CUDA.

#pragma once
#include <cstdint>

namespace keiko::cuda {

// Throws Error when `status` (a cudaError_t) is not cudaSuccess: "cudaMemcpyAsync on device 0:
// ...". Kind kInternal when the call or a kernel was wrong (a bug in Keiko: the device's context
// may be lost), kIo when driver, device or memory refused. `call`: the runtime function's name, or
// the kernel's. The device is the calling thread's own.
void check(int status, const char* call);

// As check(), for a call that was to allocate `bytes` for `purpose` ("the frames of a batch"): out
// of memory says that, with the free and total memory of the device (or that pinned host memory ran
// out, when `is_pinned`), and what to do.
void check_allocation(int status, const char* call, int64_t bytes, const char* purpose,
                      bool is_pinned);

}  // namespace keiko::cuda
