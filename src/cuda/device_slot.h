// A batch's pixels in a GPU's memory, and who waits for whom there.
//
// Decoders write it in the order of their own queues and the trainer reads it in the order of its
// own, all later than they are told to. The slot joins these orders by marks, so that the host need
// not wait: a reader begins when every writer is done, and writers of the next batch begin when the
// reader is done with this one.

#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/work_queue.h"
#include "media/batch_buffer.h"

namespace keiko::cuda {

class DeviceSlot : public media::BatchBuffer {
 public:
  // `memory` gives the memory, GPU `device`'s. `reader`: the queue that batches are read in.
  DeviceSlot(int device, std::unique_ptr<media::BatchBuffer> memory,
             std::shared_ptr<WorkQueue> reader)
      : device_(device), memory_(std::move(memory)), reader_(std::move(reader)) {}
  // Waits until reader and writers are done.
  ~DeviceSlot() override;
  DeviceSlot(const DeviceSlot&) = delete;
  DeviceSlot& operator=(const DeviceSlot&) = delete;

  // As BatchBuffer. Waits for the reader of the batch before when more memory is needed.
  uint8_t* reserve(size_t size) override;
  int device() const override { return device_; }
  void expect() override;
  void hand_out() override;
  void take_back() override;
  double waited_s() const override;

  // What `writer` is given from now on waits until the last batch was read. Any thread.
  void begin_writing(WorkQueue& writer);
  // Readers will wait for what `writer` has been given so far. The queue does not go before that
  // work is done. Any thread.
  void end_writing(WorkQueue& writer);

 private:
  const int device_;
  const std::unique_ptr<media::BatchBuffer> memory_;
  const std::shared_ptr<WorkQueue> reader_;
  size_t size_ = 0;  // bytes, the most that was reserved
  std::mutex mutex_;
  std::unique_ptr<WorkMark> read_;  // where the reader was done; null: nobody has read
  // The last mark of each writer since hand_out(): it stands for those before.
  std::vector<std::pair<const WorkQueue*, std::unique_ptr<WorkMark>>> written_;
  std::unique_ptr<WorkMark> expected_, there_;  // of the reader, with times
};

}  // namespace keiko::cuda
