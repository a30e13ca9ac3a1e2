// A device that computes behind the back of the thread, played by numbers: what it has been given,
// what each piece takes, and how far it is.

#include "dist/wait_clock.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "dist/gradient_reducer.h"

namespace keiko::dist {
namespace {

struct Device {
  double given_s = 0;   // device time when all that it has been given is done
  double passed_s = 0;  // how far it is
  int marks = 0;
};

class Mark : public StreamMark {
 public:
  explicit Mark(Device& device) : device_(device) { ++device.marks; }
  void record() override { at_s_ = device_.given_s; }
  bool is_reached() const override { return at_s_ <= device_.passed_s; }
  double seconds_since(const StreamMark& earlier) const override {
    const auto& other = dynamic_cast<const Mark&>(earlier);
    if (!is_reached() || !other.is_reached())
      fail(ErrorKind::kInternal, "asked for a time that is not over");
    return at_s_ - other.at_s_;
  }

 private:
  Device& device_;
  double at_s_ = 0;
};

std::unique_ptr<WaitClock> clock_of(Device& device) {
  return std::make_unique<StreamClock>([&] { return std::make_unique<Mark>(device); });
}

TEST(StreamClock, TellsTheNewestWaitThatTheDeviceHasBehindItAndWaitsForNone) {
  Device device;
  const auto clock = clock_of(device);
  EXPECT_EQ(clock->last_s(), 0);
  const auto step = [&](double computes_s, double waits_s) {
    device.given_s += computes_s;
    clock->begin();
    device.given_s += waits_s;
    clock->end();
  };
  step(10, 1);
  EXPECT_EQ(clock->last_s(), 0) << "the device has not begun";
  device.passed_s = 10.5;
  EXPECT_EQ(clock->last_s(), 0) << "it is in the middle of the wait";
  device.passed_s = 12;
  EXPECT_EQ(clock->last_s(), 1);
  step(10, 2);
  EXPECT_EQ(clock->last_s(), 1) << "the last step is not over: the one before it counts";
  // A step later: both are over, or the older one alone.
  step(10, 3);
  device.passed_s = 23;
  EXPECT_EQ(clock->last_s(), 2);
  device.passed_s = 36;
  EXPECT_EQ(clock->last_s(), 3);
  EXPECT_EQ(clock->last_s(), 3) << "the same again";
  // A host that runs far ahead loses what it did not ask for, and nothing grows.
  for (int i = 0; i < 10; ++i) step(1, 0.5);
  EXPECT_EQ(clock->last_s(), 3);
  device.passed_s = device.given_s;
  EXPECT_EQ(clock->last_s(), 0.5);
  EXPECT_EQ(device.marks, 4);
}

// Collectives that a stream waits for: wait() returns at once and costs the device `wait_s`.
class DeviceCommunicator : public Communicator {
 public:
  DeviceCommunicator(Device& device, double wait_s) : device_(device), wait_s_(wait_s) {}
  int64_t rank() const override { return 0; }
  int64_t world_size() const override { return 2; }
  std::unique_ptr<Work> all_reduce(at::Tensor, const std::string&) override {
    return std::make_unique<Waiting>(device_, wait_s_);
  }
  std::unique_ptr<Work> reduce_scatter(at::Tensor, const at::Tensor&, const std::string&) override {
    return nullptr;
  }
  std::unique_ptr<Work> all_gather_into(at::Tensor, const at::Tensor&,
                                        const std::string&) override {
    return nullptr;
  }
  void broadcast(at::Tensor, int64_t) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> group(const std::string&, const std::vector<int64_t>&) override {
    return nullptr;
  }
  std::string meeting() const override { return "a test"; }
  c10d::Store* store() const override { return nullptr; }
  void set_watcher(Watcher*) override {}
  std::unique_ptr<StreamMark> make_stream_mark(at::Device) override {
    return std::make_unique<Mark>(device_);
  }

 private:
  class Waiting : public Work {
   public:
    Waiting(Device& device, double wait_s) : device_(device), wait_s_(wait_s) {}
    void wait() override { device_.given_s += wait_s_; }
    bool is_done() override { return false; }

   private:
    Device& device_;
    double wait_s_;
  };
  Device& device_;
  double wait_s_;
};

TEST(StreamClock, WhatAReducerSaysOfADeviceIsTheDevicesTimeAndNotTheThreads) {
  model::Parameters parameters(at::kFloat);
  for (int block = 0; block < 3; ++block)
    parameters.declare({fmt::format("w{}", block), {8, 8}, block, true});
  parameters.allocate(1);
  Device device;
  DeviceCommunicator communicator(device, 0.25);
  ReduceOptions options;
  options.bucket_mb = 0;
  GradientReducer reducer(communicator, parameters, options);
  ASSERT_EQ(reducer.buckets().size(), 3u);
  device.given_s = 100;  // backward
  reducer.reduce();
  EXPECT_EQ(reducer.waited_s(), 0) << "nothing is known of this step yet";
  device.passed_s = device.given_s;
  EXPECT_EQ(reducer.waited_s(), 0.75);
}

}  // namespace
}  // namespace keiko::dist
