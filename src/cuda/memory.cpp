#include "cuda/memory.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "base/error.h"
#include "cuda/error.h"

namespace keiko::cuda {

DeviceBuffer::DeviceBuffer(int device, size_t size, const char* purpose) : size_(size) {
  if (size == 0) return;
  const DeviceScope scope(device);
  void* memory = nullptr;
  check_allocation(cudaMalloc(&memory, size), "cudaMalloc", int64_t(size), purpose, false);
  data_ = static_cast<uint8_t*>(memory);
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

uint8_t* GrowingDeviceBuffer::reserve(size_t size) {
  if (size > memory_.size()) {
    memory_ = DeviceBuffer();  // first, or both would have to fit
    try {
      memory_ = DeviceBuffer(device_, size, purpose_);
    } catch (const Error&) {
      if (!make_room_) throw;
      make_room_();
      memory_ = DeviceBuffer(device_, size, purpose_);
    }
  }
  return memory_.data();
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

uint8_t* PinnedBuffer::reserve(size_t size) {
  if (size <= size_) return data_;
  const DeviceScope scope(device_);
  check(cudaFreeHost(std::exchange(data_, nullptr)), "cudaFreeHost");
  size_ = 0;
  void* memory = nullptr;
  check_allocation(cudaHostAlloc(&memory, size, cudaHostAllocPortable), "cudaHostAlloc",
                   int64_t(size), purpose_, true);
  data_ = static_cast<uint8_t*>(memory);
  size_ = size;
  return data_;
}

void copy_to_device(void* device, const void* host, size_t size, const Stream& stream) {
  const DeviceScope scope(stream.device());  // the default stream is the one of the thread's device
  check(cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, stream.handle()),
        "cudaMemcpyAsync to the device");
}

void copy_to_host(void* host, const void* device, size_t size, const Stream& stream) {
  const DeviceScope scope(stream.device());  // the default stream is the one of the thread's device
  check(cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, stream.handle()),
        "cudaMemcpyAsync to the host");
}

void copy_on_device(void* to, const void* from, size_t size, const Stream& stream) {
  const DeviceScope scope(stream.device());
  check(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream.handle()),
        "cudaMemcpyAsync on the device");
}

}  // namespace keiko::cuda
