// A GPU that does work later than it was given, for tests of who waits for whom on machines without
// one.
//
// Queues run in order, each by itself; which of them goes on next is drawn at random, and every
// step may take a while; by the device's own clock it takes a second. So whatever is ordered by
// luck alone shows within a few tries. Pixels are made by the CPU path's converter, out of surfaces
// whose addresses were taken when the work was given, as a kernel's arguments are.

#pragma once
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "cuda/nvdec_clip_decoder.h"
#include "cuda/work_queue.h"

namespace keiko::cuda {

// Thread-safe. Outlives its queues and their marks.
class EmulatedDevice {
 public:
  // `slowest_us`: a piece of work takes up to so many microseconds more than it needs.
  explicit EmulatedDevice(uint64_t seed = 1, uint64_t slowest_us = 0)
      : slowest_us_(slowest_us), rng_(seed, Stream::kClip, 0), worker_([this] { work(); }) {}
  ~EmulatedDevice() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
      is_paused_ = false;
    }
    changed_.notify_all();
    worker_.join();
  }
  EmulatedDevice(const EmulatedDevice&) = delete;

  // Nothing more is begun until resume().
  void pause() {
    const std::lock_guard lock(mutex_);
    is_paused_ = true;
  }
  void resume() {
    {
      const std::lock_guard lock(mutex_);
      is_paused_ = false;
    }
    changed_.notify_all();
  }
  // Pieces of work that were given and are not done.
  int64_t pending() {
    const std::lock_guard lock(mutex_);
    int64_t all = is_working_ ? 1 : 0;
    for (const Lane* lane : lanes_) all += int64_t(lane->work.size());
    return all;
  }

  class Queue;
  std::unique_ptr<Queue> make_queue() { return std::make_unique<Queue>(*this); }

 private:
  struct Place {  // of a mark
    bool is_reached = false;
    double at_s = 0;
  };
  struct Piece {
    std::function<void()> run;
    std::shared_ptr<Place> awaited;  // not before this is reached; null: at once
    std::shared_ptr<Place> reaches;  // null: no mark
  };
  struct Lane {
    std::deque<Piece> work;
  };

  class Mark : public WorkMark {
   public:
    Mark(EmulatedDevice& device, std::shared_ptr<Place> place)
        : device_(device), place_(std::move(place)) {}
    void wait() override {
      std::unique_lock lock(device_.mutex_);
      device_.changed_.wait(lock, [&] { return place_->is_reached; });
    }
    double seconds_since(WorkMark& earlier) override {
      earlier.wait();
      wait();
      return place_->at_s - static_cast<Mark&>(earlier).place_->at_s;
    }
    const std::shared_ptr<Place>& place() const { return place_; }

   private:
    EmulatedDevice& device_;
    std::shared_ptr<Place> place_;
  };

  void add(Lane& lane, Piece piece) {
    {
      const std::lock_guard lock(mutex_);
      lane.work.push_back(std::move(piece));
    }
    changed_.notify_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      std::vector<Lane*> able;
      for (Lane* lane : lanes_)
        if (!is_paused_ && !lane->work.empty() &&
            (!lane->work.front().awaited || lane->work.front().awaited->is_reached))
          able.push_back(lane);
      if (able.empty()) {
        if (is_ending_) return;
        changed_.wait(lock);
        continue;
      }
      Lane& lane = *able[rng_.below(able.size())];
      const Piece piece = std::move(lane.work.front());
      lane.work.pop_front();
      is_working_ = true;
      const uint64_t pause_us = slowest_us_ > 0 ? rng_.below(slowest_us_) : 0;
      lock.unlock();
      if (piece.run) {
        if (pause_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        piece.run();
      }
      lock.lock();
      is_working_ = false;
      if (piece.run) clock_s_ += 1;
      if (piece.reaches) *piece.reaches = {true, clock_s_};
      changed_.notify_all();
    }
  }

  const uint64_t slowest_us_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Rng rng_;
  double clock_s_ = 0;
  std::vector<Lane*> lanes_;
  bool is_paused_ = false, is_working_ = false, is_ending_ = false;
  std::thread worker_;
};

class EmulatedDevice::Queue : public WorkQueue {
 public:
  explicit Queue(EmulatedDevice& device) : device_(device) {
    const std::lock_guard lock(device_.mutex_);
    device_.lanes_.push_back(&lane_);
  }
  ~Queue() override {
    const std::lock_guard lock(device_.mutex_);
    EXPECT_TRUE(lane_.work.empty()) << "a queue went before its work was done";
    std::erase(device_.lanes_, &lane_);
  }

  void add(std::function<void()> run) { device_.add(lane_, {std::move(run), nullptr, nullptr}); }
  std::unique_ptr<WorkMark> mark(bool = false) override {
    const auto place = std::make_shared<Place>();
    device_.add(lane_, {nullptr, nullptr, place});
    return std::make_unique<Mark>(device_, place);
  }
  void wait_for(const WorkMark& mark) override {
    device_.add(lane_, {nullptr, static_cast<const Mark&>(mark).place(), nullptr});
  }

 private:
  EmulatedDevice& device_;
  Lane lane_;
};

class EmulatedConverter : public SurfaceConverter {
 public:
  explicit EmulatedConverter(EmulatedDevice& device) : queue_(device.make_queue()) {}
  ~EmulatedConverter() override { queue_->mark()->wait(); }

  WorkQueue& queue() override { return *queue_; }
  void convert(size_t view, const AVFrame& surface, const media::PixelGeometry& geometry,
               uint8_t* red, uint8_t* green, uint8_t* blue, int64_t row_stride) override {
    // The frame's own memory is not kept: whoever lets it go too early has other pixels made.
    queue_->add([=, this, frame = std::make_shared<AVFrame>(surface)] {
      pixels_.at(view).convert(*frame, geometry, red, green, blue, row_stride);
    });
  }
  void copy(uint8_t* to, const uint8_t* from, size_t bytes) override {
    queue_->add([=] { std::memcpy(to, from, bytes); });
  }
  uint8_t* stage(size_t bytes) override {
    current_ = (current_ + 1) % staged_.size();
    Staged& staged = staged_[current_];
    if (staged.copied) staged.copied->wait();
    return staged.memory.reserve(bytes);
  }
  void upload(uint8_t* to, const uint8_t* from, size_t bytes) override {
    queue_->add([=] { std::memcpy(to, from, bytes); });
    staged_[current_].copied = queue_->mark();
  }

 private:
  struct Staged {
    media::HeapBuffer memory;
    std::unique_ptr<WorkMark> copied;
  };
  std::unique_ptr<EmulatedDevice::Queue> queue_;
  std::array<media::PixelConverter<float>, 8> pixels_;
  std::array<Staged, 2> staged_;
  size_t current_ = 0;
};

}  // namespace keiko::cuda
