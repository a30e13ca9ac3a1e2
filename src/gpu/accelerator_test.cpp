#include "gpu/accelerator.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace keiko::gpu {
namespace {

// Every symbol of the module is found, also where there is no GPU.
TEST(Accelerator, TheModuleLoadsOrSaysWhyNot) {
#ifdef KEIKO_HAS_GPU_MODULE
  EXPECT_EQ(why_no_module(), "");
#else
  EXPECT_NE(why_no_module(), "");
#endif
}

TEST(Accelerator, WithoutAGpuTheReasonIsSaid) {
  if (cuda::device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  const std::string why = why_no_accelerator();
  EXPECT_EQ(why, cuda::is_built() ? cuda::why_no_device() : why_no_module());
  try {
    load_accelerator(0);
    FAIL() << "there is no GPU to load";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
  }
}

TEST(Accelerator, AGpuThatIsNotThereIsRefusedByNumber) {
  const int count = cuda::device_count();
  if (count == 0) GTEST_SKIP() << "no GPU: " << why_no_accelerator();
  for (int index : {-1, count}) try {
      load_accelerator(index);
      FAIL() << "GPU " << index << " of " << count;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(fmt::format("GPU {} ", index)), std::string::npos)
          << e.what();
    }
}

}  // namespace
}  // namespace keiko::gpu
