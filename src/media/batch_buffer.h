// The memory of one batch's pixels, as the loader sees it.
//
// The loader fills plain host memory, or a device's. Where that lies, and what must wait for what
// there, is another's choice: pinned pages (cuda/memory.h), from which a GPU copies while training
// goes on, and slots on a GPU (cuda/device_slot.h) are the reasons for this interface.

#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace keiko::media {

class BatchBuffer {
 public:
  virtual ~BatchBuffer() = default;
  // At least `size` bytes, aligned for every type, valid until the next call. Their values are
  // undefined. May be called from any thread, not from two at once. Throws Error when there is no
  // memory.
  virtual uint8_t* reserve(size_t size) = 0;

  // The GPU whose memory it is, from 0 on, where the host cannot read or write it; -1: host memory.
  virtual int device() const { return -1; }

  // What follows orders work that a device does later than it was given; host memory needs none of
  // it. The thread that reads batches calls them, in this order, once for each batch. They do not
  // wait. Throw Error(kIo) when the device failed.
  //
  // The reader has nothing to do until it gets this batch.
  virtual void expect() {}
  // All its writers have been given their work: what the reader is given from now on waits for it.
  virtual void hand_out() {}
  // The reader was given all that it shall do with the batch: writers of the next one wait for it.
  virtual void take_back() {}

  // Seconds from expect() to the moment when the batch was there, as the device's own clock saw
  // them. To be asked between hand_out() and take_back(), when work with the batch was waited for;
  // waits otherwise. 0 in host memory.
  virtual double waited_s() const { return 0; }
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
