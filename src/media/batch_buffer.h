// The memory of one batch's pixels, as the loader sees it.
//
// The loader fills plain host memory. Where that lies is another's choice: pinned pages, from which
// a GPU copies while training goes on, are the reason for this interface (cuda/memory.h).

#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace keiko::media {

class BatchBuffer {
 public:
  virtual ~BatchBuffer() = default;
  // At least `size` bytes of host memory, aligned for every type, valid until the next call. Their
  // values are undefined. May be called from any thread, not from two at once. Throws Error when
  // there is no memory.
  virtual uint8_t* reserve(size_t size) = 0;
};

// Memory of the C++ heap; grows, and never shrinks.
class HeapBuffer : public BatchBuffer {
 public:
  uint8_t* reserve(size_t size) override {
    if (size > size_ || memory_ == nullptr) {
      memory_.reset();  // first, or both would have to fit
      memory_ = std::make_unique<uint8_t[]>(size);
      size_ = size;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  size_t size_ = 0;
};

// One for each slot of a loader.
using MakeBuffer = std::function<std::unique_ptr<BatchBuffer>()>;

}  // namespace keiko::media
