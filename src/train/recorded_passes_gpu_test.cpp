// Recordings as CUDA graphs; skips loudly without a GPU.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "gpu/device_patches.h"
#include "objective/device_cases_for_tests.h"
#include "train/compute.h"
#include "train/recorded_passes.h"

namespace keiko::train {
namespace {

using objective::LossSums;
using objective::MicroBatch;

// Clips of noise, other ones in each step, on the CPU.
MicroBatch batch_of(int64_t step, int64_t clips) {
  MicroBatch batch = objective::batch_on(at::kCPU, clips);
  const auto noise = [&](at::IntArrayRef shape, int64_t levels) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return at::arange(step * count, (step + 1) * count, at::kLong)
        .mul(7919)
        .remainder(65537)
        .remainder(levels)
        .view(shape);
  };
  batch.video = noise(batch.video.sizes(), 256).to(at::kByte);
  batch.label = noise(batch.label.sizes(), 3);
  batch.target = noise(batch.target.sizes(), 101).to(at::kFloat) / 100;
  batch.step = step;
  batch.batch_first = step * clips;
  batch.batch_last = (step + 1) * clips;
  for (int64_t i = 0; i < clips; ++i) batch.positions[size_t(i)] = batch.batch_first + i;
  return batch;
}

std::vector<at::Tensor> results(const LossSums& sums, objective::Objective& objective) {
  std::vector<at::Tensor> all = {sums.loss.to(at::kDouble).cpu()};
  if (sums.metrics.defined()) all.push_back(sums.metrics.cpu());
  for (const auto& buffer : objective.parameters().buffers())
    all.push_back(buffer.grad.to(at::kDouble).cpu());
  return all;
}

// Kernels that add in any order (gathering tokens back) differ in the last bits from run to run.
TEST(RecordedPasses, OnAGpuGiveWhatPassesThatRunAfreshGive) {
  if (cuda::device_count() == 0) GTEST_SKIP() << "no GPU: " << gpu::why_no_accelerator();
  const auto accelerator = gpu::load_accelerator(0);
  model::set_device_kernels(at::kCUDA, gpu::make_device_patches(*accelerator));
  const auto recorder = accelerator->make_recorder();
  for (const objective::DeviceCase& c : objective::device_cases())
    for (const auto& [recomputes, autocast] :
         {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
      SCOPED_TRACE(c.keys + (recomputes ? ", recomputed" : "") + (autocast ? ", bf16" : ""));
      const auto plain = make(c), other = make(c);
      plain->move_to(accelerator->device());
      other->move_to(accelerator->device());
      RecordedPasses passes(*other, *recorder, 1.0 / 6, autocast, recomputes);
      for (int64_t step = 0; step < 8; ++step) {
        for (const auto& objective : {&plain, &other}) (*objective)->parameters().zero_grad();
        const MicroBatch batch = batch_of(step, 6);
        MicroBatch there = batch;
        for (at::Tensor* tensor : {&there.video, &there.label, &there.target})
          *tensor = tensor->to(accelerator->device());
        LossSums afresh = [&] {
          const AutocastGuard guard(autocast, at::kCUDA);
          return plain->loss(there, model::BlockRunner());
        }();
        afresh.loss.backward(at::full_like(afresh.loss, 1.0 / 6));
        afresh.loss = afresh.loss.detach();
        const auto wanted = results(afresh, *plain), found = results(passes.run(batch), *other);
        ASSERT_EQ(wanted.size(), found.size());
        for (size_t i = 0; i < wanted.size(); ++i) {
          const double scale = wanted[i].abs().max().item<double>();
          const double apart = (wanted[i] - found[i]).abs().max().item<double>();
          EXPECT_LE(apart, (autocast ? 2e-2 : 1e-4) * scale + 1e-7)
              << "step " << step << ", result " << i;
        }
      }
      if (c.keys.find("vjepa2, pred") == std::string::npos &&
          c.keys.find("cutmix") == std::string::npos) {
        EXPECT_GE(passes.replays(), 2);
      }
    }
  model::set_device_kernels(at::kCUDA, nullptr);
}

}  // namespace
}  // namespace keiko::train
