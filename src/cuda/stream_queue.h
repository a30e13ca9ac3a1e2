// CUDA's streams as queues of work.

#pragma once
#include <functional>
#include <memory>

#include "cuda/stream.h"
#include "cuda/work_queue.h"

namespace keiko::cuda {

class StreamQueue : public WorkQueue {
 public:
  // `current` gives the stream at every call: one that somebody else owns and may change (torch's).
  StreamQueue(int device, std::function<StreamHandle()> current)
      : device_(device), current_(std::move(current)) {}
  // Of one stream, which outlives the queue.
  explicit StreamQueue(const Stream& stream)
      : StreamQueue(stream.device(), [handle = stream.handle()] { return handle; }) {}

  std::unique_ptr<WorkMark> mark(bool has_time = false) override;
  // `mark`: one that mark() of a StreamQueue made.
  void wait_for(const WorkMark& mark) override;

 private:
  int device_;
  std::function<StreamHandle()> current_;
};

}  // namespace keiko::cuda
