#include "cuda/device.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "cuda/memory.h"

namespace keiko::cuda {
namespace {

TEST(Device, ThereIsOneOrAReasonWhyNot) {
  EXPECT_EQ(why_no_device().empty(), device_count() > 0) << why_no_device();
  if (!is_built()) {
    EXPECT_EQ(device_count(), 0);
    EXPECT_NE(why_no_device().find("-DKEIKO_CUDA=ON"), std::string::npos) << why_no_device();
  }
}

// A device that is not there is an error with its number or with what is missing, never a crash.
TEST(Device, OneThatIsNotThereIsRefusedByName) {
  const int missing = device_count();
  const auto message_of = [](auto call) {
    try {
      call();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const std::string why = is_built() ? fmt::format("GPU {}", missing) : "-DKEIKO_CUDA=ON";
  for (const std::string& message :
       {message_of([&] { Stream stream(missing); }), message_of([&] { Event event(missing); }),
        message_of([&] { DeviceBuffer buffer(missing, 10, "a test"); }),
        message_of([&] { PinnedBuffer(missing, "a test").reserve(10); })})
    EXPECT_NE(message.find(why), std::string::npos) << message;
}

}  // namespace
}  // namespace keiko::cuda
