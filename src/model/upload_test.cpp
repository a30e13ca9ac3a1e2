#include "model/upload.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/meta_device_for_tests.h"

namespace keiko::model {
namespace {

TEST(Upload, NeedsNoCopyOnTheCpu) {
  const at::Tensor a = at::arange(6).view({2, 3}), b = at::arange(4);
  EXPECT_TRUE(upload(a, at::kCPU).is_same(a));
  const auto both = upload_all({a, at::Tensor(), b}, at::kCPU);
  EXPECT_TRUE(both[0].is_same(a) && !both[1].defined() && both[2].is_same(b));
}

TEST(Upload, SendsSeveralTensorsInOneCopyThatNobodyWaitsFor) {
  const at::Tensor a = at::arange(6).view({2, 3}), b = at::arange(4), none;
  const MetaWatch watch;
  const auto there = upload_all({a, none, b, none}, at::kMeta);
  ASSERT_EQ(there.size(), 4u);
  EXPECT_TRUE(there[0].is_meta() && there[0].sizes() == a.sizes() && there[0].is_contiguous());
  EXPECT_TRUE(there[2].is_meta() && there[2].sizes() == b.sizes() && there[2].is_contiguous());
  EXPECT_EQ(there[2].storage_offset(), 6);
  EXPECT_FALSE(there[1].defined() || there[3].defined());
  EXPECT_EQ(watch.uploads(), 1);
  EXPECT_TRUE(watch.faults().empty());
  EXPECT_TRUE(upload_all({none}, at::kMeta).size() == 1 && watch.uploads() == 1);
}

TEST(Upload, FillsMemoryThatStays) {
  const at::Tensor a = at::arange(6).view({2, 3}), here = at::zeros({2, 3}, at::kLong);
  const void* place = here.data_ptr();
  upload_into(here, a);
  EXPECT_TRUE(here.equal(a) && here.data_ptr() == place && place != a.data_ptr());
  const MetaWatch watch;
  upload_into(at::empty({2, 3}, at::TensorOptions(at::kMeta).dtype(at::kLong)), a);
  EXPECT_EQ(watch.uploads(), 1);
  EXPECT_TRUE(watch.faults().empty());
}

// The instrument of the tests of devices: it must see what it is there for.
TEST(MetaWatch, NoticesWhatAGpuWouldRefuseOrWaitFor) {
  const auto options = at::TensorOptions(at::kMeta);
  const at::Tensor there = at::empty({3, 4}, options), here = at::ones({3, 4});
  const at::Tensor flags = at::empty({3}, options.dtype(at::kBool));
  const auto faults_of = [](const std::function<void()>& work) {
    const MetaWatch watch;
    try {
      work();
    } catch (const c10::Error&) {  // torch may refuse it as well
    }
    return fmt::format("{}", fmt::join(watch.faults(), "; "));
  };
  // Operations that torch lets pass on this device.
  EXPECT_NE(faults_of([&] { at::matmul(there, here.t()); }).find("takes [4, 3] of the CPU"),
            std::string::npos);
  EXPECT_NE(faults_of([&] {
              at::cat({there, here});
            }).find("takes [3, 4] of the CPU"),
            std::string::npos);
  EXPECT_NE(faults_of([&] { there.index_select(0, at::arange(2)); }).find("takes [2] of the CPU"),
            std::string::npos);
  EXPECT_NE(faults_of([&] { there.index({flags}); }).find("depends on values"), std::string::npos);
  EXPECT_NE(faults_of([&] { there.sum().item<float>(); }).find("reads values"), std::string::npos);
  EXPECT_NE(faults_of([&] { here.to(at::kMeta); }).find("the host waits"), std::string::npos);
  EXPECT_NE(faults_of([&] { at::where(there.gt(0), there, at::zeros({})); }).find("the host waits"),
            std::string::npos);
  EXPECT_EQ(faults_of([&] {
              at::Tensor leaf = there.detach().requires_grad_();
              ((leaf * 2 + 1).square().sum() / 3).backward();
              here.to(at::kMeta, here.scalar_type(), /*non_blocking=*/true).add_(there);
            }),
            "");
}

}  // namespace
}  // namespace keiko::model
