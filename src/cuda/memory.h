// Memory of a device, and host memory that a device copies from and to by itself.
//
// Both are owned by objects that free them; neither is cleared.

#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "cuda/stream.h"
#include "media/batch_buffer.h"

namespace keiko::cuda {

// Bytes on one device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // `purpose` says what it is for, in errors ("the tables of the pixel kernel").
  DeviceBuffer(int device, size_t size, const char* purpose);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  uint8_t* data() const { return data_; }  // aligned to 256 bytes; nullptr when empty
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Memory of a device that is kept, and grows at need.
class GrowingDeviceBuffer : public media::BatchBuffer {
 public:
  // `purpose`: as for DeviceBuffer. `make_room`, when given, is called where the device is full,
  // before it is asked once more: it lets go of what others keep for later.
  GrowingDeviceBuffer(int device, const char* purpose, std::function<void()> make_room = {})
      : device_(device), purpose_(purpose), make_room_(std::move(make_room)) {}

  // As BatchBuffer. When it must grow, nothing may work with the memory before.
  uint8_t* reserve(size_t size) override;
  int device() const override { return device_; }

 private:
  int device_;
  const char* purpose_;
  std::function<void()> make_room_;
  DeviceBuffer memory_;
};

// Page-locked host memory: copies between it and a device run beside the host. Every device may use
// it. Making it costs milliseconds, so it is kept, and grows at need.
class PinnedBuffer : public media::BatchBuffer {
 public:
  // `device`: whose context the memory is made in. `purpose`: as for DeviceBuffer.
  PinnedBuffer(int device, const char* purpose) : device_(device), purpose_(purpose) {}
  ~PinnedBuffer() override;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  // As BatchBuffer. When it must grow, no copy from or to the memory before may be under way.
  uint8_t* reserve(size_t size) override;

 private:
  int device_;
  const char* purpose_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Copies in the order of `stream`. `host` must stay as it is until that is done, and should be
// pinned: otherwise the call waits for the stream.
void copy_to_device(void* device, const void* host, size_t size, const Stream& stream);
void copy_to_host(void* host, const void* device, size_t size, const Stream& stream);
// Both on the stream's device, apart from each other.
void copy_on_device(void* to, const void* from, size_t size, const Stream& stream);

}  // namespace keiko::cuda
