#include "cuda/nvdec_cuda_device.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace keiko::cuda {
namespace {

// Holds with and without a GPU: whatever the driver says, it says it wholly.
TEST(NvidiaDriver, SaysWhatItHasOrWhyNot) {
  const NvidiaDriver driver;
  if (driver.gpu_count() == 0) {
    EXPECT_FALSE(driver.why_no_gpu().empty());
    EXPECT_FALSE(driver.why_no_nvdec().empty());
    EXPECT_FALSE(driver.caps(0, "h264", Chroma::k420, 8).is_supported);
    EXPECT_THROW(driver.gpu(0), Error);
    return;
  }
  EXPECT_EQ(driver.why_no_gpu(), "");
  EXPECT_GE(driver.cuda_version(), 11000);
  for (int g = 0; g < driver.gpu_count(); ++g) {
    const Gpu gpu = driver.gpu(g);
    EXPECT_FALSE(gpu.name.empty());
    EXPECT_GE(gpu.capability_major, 5);
    EXPECT_GT(gpu.total_bytes, 0);
    EXPECT_LE(gpu.free_bytes, gpu.total_bytes);
    const NvdecCaps caps = driver.caps(g, "h264", Chroma::k420, 8);
    if (!driver.why_no_nvdec().empty() || !caps.is_supported) continue;
    EXPECT_GE(caps.max_width, 1920);
    EXPECT_LE(caps.min_width, 64);
    EXPECT_FALSE(driver.caps(g, "h264", Chroma::k444, 14).is_supported);
  }
}

TEST(NvidiaDriver, KnowsNoOtherCodecs) {
  const NvidiaDriver driver;
  EXPECT_FALSE(driver.caps(0, "theora", Chroma::k420, 8).is_supported);
  EXPECT_FALSE(driver.caps(-1, "h264", Chroma::k420, 8).is_supported);
  EXPECT_FALSE(driver.caps(1000, "h264", Chroma::k420, 8).is_supported);
}

TEST(CudaDevice, WhereItCannotBeOpenedTheErrorSaysWhatToDo) {
  const NvidiaDriver driver;
  try {
    open_cuda_device(driver, driver.gpu_count());
    FAIL() << "a GPU that is not there was opened";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(e.kind(), ErrorKind::kUsage) << text;
    if (!driver.why_no_gpu().empty()) {
      EXPECT_NE(text.find(driver.why_no_gpu()), std::string::npos) << text;
    }
  }
}

TEST(CudaDevice, FfmpegsCodecsAreSomeOfOurs) {
  for (const std::string& codec : nvdec_codecs_of_ffmpeg()) {
    media::StreamParameters stream;
    stream.codec = codec;
    stream.pixel_format = "yuv420p";
    stream.width = stream.height = 256;
    EXPECT_TRUE(nvdec_session_key(stream, 4).has_value()) << codec;
  }
}

}  // namespace
}  // namespace keiko::cuda
