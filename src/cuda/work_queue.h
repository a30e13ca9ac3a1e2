// What a GPU does later, in order: the few calls by which decoders, slots and who reads them wait
// for each other.
//
// A mark names a place in a queue. Other queues wait for it without the host; where the host must,
// it says so. CUDA's streams and events are behind it (stream_queue.h), or a test's own.

#pragma once
#include <memory>

namespace keiko::cuda {

// A place in a queue, which is reached when all work given before it is done. May outlive its
// queue.
class WorkMark {
 public:
  virtual ~WorkMark() = default;
  // Blocks the calling thread until it is reached. Throws Error(kIo) when the device failed.
  virtual void wait() = 0;
  // Seconds of the device's clock from `earlier` to this one. Both were made with `has_time` by
  // queues of one device; waits until both are reached. Throws as wait() does.
  virtual double seconds_since(WorkMark& earlier) = 0;
};

// Work of one device in the order in which it is given. Used by one thread at a time.
class WorkQueue {
 public:
  virtual ~WorkQueue() = default;
  // Marks the work given so far. `has_time`: seconds_since() will be asked, which costs a little.
  // Returns at once. Throws Error(kIo).
  virtual std::unique_ptr<WorkMark> mark(bool has_time = false) = 0;
  // Work given from now on begins after `mark`, one of the same device, is reached. Returns at
  // once; the mark may go. Throws Error(kIo).
  virtual void wait_for(const WorkMark& mark) = 0;
};

}  // namespace keiko::cuda
