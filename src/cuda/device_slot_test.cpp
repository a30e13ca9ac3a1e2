// Who waits for whom in a slot, on a device whose queues run in random order.

#include "cuda/device_slot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <future>

#include "cuda/emulated_device_for_tests.h"

namespace keiko::cuda {
namespace {

using Queue = EmulatedDevice::Queue;
constexpr size_t kWriters = 3, kBytes = 48;

// One loader's slots, whose batches are filled by all writers, each with the step's number, and
// read by a queue that notes what it saw.
class Pipeline {
 public:
  Pipeline(EmulatedDevice& device, size_t slots) : reader_(device.make_queue()) {
    for (size_t i = 0; i < kWriters; ++i) writers_.push_back(device.make_queue());
    for (size_t i = 0; i < slots; ++i)
      slots_.push_back(
          std::make_unique<DeviceSlot>(0, std::make_unique<media::HeapBuffer>(), reader_));
  }
  ~Pipeline() { finish(); }

  // In the order of Loader::next(). Without `orders` as if nothing had to wait.
  void step(int64_t number, bool orders = true) {
    DeviceSlot& slot = *slots_[size_t(number) % slots_.size()];
    const auto value = uint8_t(number + 1);
    if (number >= int64_t(slots_.size()) && orders) slot.take_back();
    uint8_t* memory = slot.reserve(kBytes);
    for (size_t w = 0; w < kWriters; ++w) {
      if (orders) slot.begin_writing(*writers_[w]);
      for (size_t i = w; i < kBytes; i += kWriters) writers_[w]->add([=] { memory[i] = value; });
      if (orders) slot.end_writing(*writers_[w]);
    }
    slot.expect();
    if (orders) slot.hand_out();
    for (size_t i = 0; i < kBytes; ++i) reader_->add([=, this] { torn_ += memory[i] != value; });
  }
  void finish() {
    for (const auto& writer : writers_) writer->mark()->wait();
    reader_->mark()->wait();
  }
  int64_t torn() const { return torn_; }
  DeviceSlot& slot(size_t i) { return *slots_[i]; }
  Queue& reader() { return *reader_; }
  Queue& writer() { return *writers_[0]; }

 private:
  std::shared_ptr<Queue> reader_;
  std::vector<std::unique_ptr<Queue>> writers_;
  std::vector<std::unique_ptr<DeviceSlot>> slots_;  // go first
  std::atomic<int64_t> torn_ = 0;
};

TEST(DeviceSlot, ReadersSeeWholeBatchesAndWritersSpareWhatIsRead) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EmulatedDevice device(seed);
    Pipeline pipeline(device, 1 + seed % 3);
    for (int64_t step = 0; step < 12; ++step) pipeline.step(step);
    pipeline.finish();
    EXPECT_EQ(pipeline.torn(), 0) << "seed " << seed;
  }
}

TEST(DeviceSlot, WithoutItsOrderTheSameWorkTearsBatches) {
  EmulatedDevice device(1);
  Pipeline pipeline(device, 2);
  for (int64_t step = 0; step < 12; ++step) pipeline.step(step, false);
  pipeline.finish();
  EXPECT_GT(pipeline.torn(), 0) << "the test above would pass whatever a slot does";
}

TEST(DeviceSlot, TheHostWaitsForNothing) {
  EmulatedDevice device(1);
  Pipeline pipeline(device, 3);
  device.pause();
  auto given = std::async(std::launch::async, [&] {
    for (int64_t step = 0; step < 30; ++step) pipeline.step(step);
  });
  const bool is_given = given.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  EXPECT_TRUE(is_given) << "somebody waited for a device that does nothing";
  EXPECT_GE(device.pending(), 30 * int64_t(2 * kBytes));
  device.resume();
  given.wait();
  pipeline.finish();
  EXPECT_EQ(pipeline.torn(), 0);
}

// Heap memory that says when it is asked to grow.
struct Watched : media::BatchBuffer {
  std::function<void()> on_growth;
  std::vector<uint8_t> memory;
  uint8_t* reserve(size_t size) override {
    if (size > memory.size()) {
      on_growth();
      memory.resize(size);
    }
    return memory.data();
  }
};

TEST(DeviceSlot, MemoryThatIsReadIsNotReplaced) {
  EmulatedDevice device(1);
  const std::shared_ptr<Queue> reader = device.make_queue();
  auto memory = std::make_unique<Watched>();
  std::atomic<bool> is_read = true;
  int growths = 0;
  memory->on_growth = [&] {
    EXPECT_TRUE(is_read) << "memory was replaced under its reader";
    ++growths;
  };
  DeviceSlot slot(0, std::move(memory), reader);
  for (size_t size : {10, 20, 15, 30}) {
    slot.reserve(size);
    slot.hand_out();
    is_read = false;
    reader->add([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      is_read = true;
    });
    slot.take_back();
    if (size == 20) reader->mark()->wait();  // 15 fits: nobody needs to wait
  }
  EXPECT_EQ(growths, 3);
  reader->mark()->wait();
}

TEST(DeviceSlot, WhatTheReaderWaitedIsTheDevicesTime) {
  EmulatedDevice device(1);
  Pipeline pipeline(device, 1);
  DeviceSlot& slot = pipeline.slot(0);
  slot.reserve(1);
  EXPECT_EQ(slot.waited_s(), 0) << "nothing was handed out yet";
  const auto fill = [&] {
    slot.begin_writing(pipeline.writer());
    for (int i = 0; i < 7; ++i) pipeline.writer().add([] {});
    slot.end_writing(pipeline.writer());
  };
  slot.expect();
  pipeline.reader().mark()->wait();
  fill();
  slot.hand_out();
  EXPECT_EQ(slot.waited_s(), 7);
  slot.take_back();
  // A batch that was there before it was asked for.
  fill();
  pipeline.writer().mark()->wait();
  slot.expect();
  slot.hand_out();
  EXPECT_EQ(slot.waited_s(), 0);
}

TEST(DeviceSlot, GoesOnlyWhenReadersAndWritersAreDone) {
  EmulatedDevice device(1);
  const std::shared_ptr<Queue> reader = device.make_queue();
  const std::unique_ptr<Queue> writer = device.make_queue();
  std::atomic<int> done = 0;
  const auto later = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ++done;
  };
  {
    DeviceSlot slot(0, std::make_unique<media::HeapBuffer>(), reader);
    slot.reserve(1);
    slot.begin_writing(*writer);
    writer->add(later);
    slot.end_writing(*writer);
    reader->add(later);
  }
  EXPECT_EQ(done, 2);
}

}  // namespace
}  // namespace keiko::cuda
