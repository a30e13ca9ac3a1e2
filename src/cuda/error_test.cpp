#include "cuda/error.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace keiko::cuda {
namespace {

template <class Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorKind::kData, "nothing was thrown");
}

TEST(CudaError, NamesTheCallAndTheDeviceAndWhoseFaultItIs) {
  EXPECT_NO_THROW(check(cudaSuccess, "cudaMalloc"));
  EXPECT_NO_THROW(check_allocation(cudaSuccess, "cudaMalloc", 1, "a test", false));
  const struct {
    cudaError_t status;
    ErrorKind kind;
    const char* name;
  } cases[] = {{cudaErrorInvalidValue, ErrorKind::kInternal, "cudaErrorInvalidValue"},
               {cudaErrorIllegalAddress, ErrorKind::kInternal, "cudaErrorIllegalAddress"},
               {cudaErrorECCUncorrectable, ErrorKind::kIo, "cudaErrorECCUncorrectable"},
               {cudaErrorDevicesUnavailable, ErrorKind::kIo, "cudaErrorDevicesUnavailable"}};
  for (const auto& c : cases) {
    const Error error = error_of([&] { check(c.status, "cudaMemcpyAsync"); });
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), c.kind) << message;
    EXPECT_EQ(message.rfind("cudaMemcpyAsync on ", 0), 0u) << message;
    EXPECT_NE(message.find(c.name), std::string::npos) << message;
  }
}

TEST(CudaError, OutOfMemorySaysForWhatAndHowMuch) {
  for (bool is_pinned : {false, true}) {
    const Error error = error_of([&] {
      check_allocation(cudaErrorMemoryAllocation, "cudaMalloc", 12345, "the frames of a batch",
                       is_pinned);
    });
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    for (const char* part : {"cudaMalloc", "the frames of a batch", "12345 bytes wanted"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find("pinned") != std::string::npos, is_pinned) << message;
    EXPECT_EQ(message.find("bytes free") != std::string::npos, !is_pinned) << message;
  }
}

}  // namespace
}  // namespace keiko::cuda
