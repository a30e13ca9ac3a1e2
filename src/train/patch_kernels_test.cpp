// The patch kernels of src/cuda (their references, which give the kernels' bits) beside what
// src/model does with tensors. Here, because no room below sees both.

#include "cuda/patch_kernels.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/patches.h"

namespace keiko::train {
namespace {

using cuda::PatchType;
namespace reference = cuda::reference;

const model::TokenGrid kGrids[] = {{2, 3, 2, 2, 8},  {1, 2, 5, 3, 4},  {4, 1, 1, 1, 16},
                                   {2, 2, 2, 2, 14}, {8, 4, 4, 2, 16}, {1, 2, 2, 1, 2}};
constexpr model::TargetUnit kUnits[] = {model::TargetUnit::kUnit, model::TargetUnit::kImageNet,
                                        model::TargetUnit::kPatch};

cuda::PatchTarget kernel_unit(model::TargetUnit unit) {
  return unit == model::TargetUnit::kUnit       ? cuda::PatchTarget::kUnit
         : unit == model::TargetUnit::kImageNet ? cuda::PatchTarget::kImageNet
                                                : cuda::PatchTarget::kPatch;
}

// Three clips of noise; tokens in no order, one of them twice.
struct Case {
  at::Tensor video, ids, said, upstream;
  cuda::PatchInput input;

  // `low`, `high`: of the levels.
  explicit Case(const model::TokenGrid& g, int64_t low = 0, int64_t high = 256) {
    auto random = at::detail::createCPUGenerator(1);
    video = at::randint(
        low, high,
        {3, 3, g.times * g.tubelet_size, g.rows * g.patch_size, g.columns * g.patch_size}, random,
        at::kByte);
    ids = at::randint(0, g.count(), {3, 4}, random, at::kLong);
    ids.select(1, 3).copy_(ids.select(1, 0));
    said = at::randn({3, 4, g.patch_values()}, random, at::kFloat);
    upstream = at::randn({3, 4}, random, at::kFloat);
    input.video = video.const_data_ptr<uint8_t>();
    input.ids = ids.const_data_ptr<int64_t>();
    input.clips = 3;
    input.kept = 4;
    input.grid = {g.times, g.rows, g.columns, g.tubelet_size, g.patch_size};
  }
  at::Tensor empty(at::ScalarType dtype) const { return at::empty(said.sizes(), dtype); }
};

std::string describe(const model::TokenGrid& g) {
  return fmt::format("{}x{}x{} tokens of {} frames and {} pixels", g.times, g.rows, g.columns,
                     g.tubelet_size, g.patch_size);
}

TEST(PatchKernels, PatchesAreTheModelsToTheBit) {
  for (const model::TokenGrid& grid : kGrids) {
    SCOPED_TRACE(describe(grid));
    const Case c(grid);
    const at::Tensor truth = model::take_patches(c.video, c.ids, grid, at::kFloat);
    at::Tensor out = c.empty(at::kFloat), half = c.empty(at::kBFloat16);
    reference::take_patches(c.input, PatchType::kFloat32, out.data_ptr());
    reference::take_patches(c.input, PatchType::kBfloat16, half.data_ptr());
    EXPECT_TRUE(out.equal(truth)) << (out - truth).abs().max().item<float>();
    EXPECT_TRUE(half.equal(truth.to(at::kBFloat16)));
  }
}

TEST(PatchKernels, TargetsAreTheModelsToTheBit) {
  for (const model::TokenGrid& grid : kGrids)
    for (model::TargetUnit unit : kUnits)
      for (int64_t high : {256, 3, 1}) {  // noise, nearly even patches, even ones
        SCOPED_TRACE(describe(grid) + fmt::format(", unit {}, {} levels", int(unit), high));
        const Case c(grid, 0, high);
        const at::Tensor truth = model::take_targets(c.video, c.ids, grid, unit, at::kFloat);
        at::Tensor out = c.empty(at::kFloat), half = c.empty(at::kBFloat16);
        reference::take_targets(c.input, kernel_unit(unit), PatchType::kFloat32, out.data_ptr());
        reference::take_targets(c.input, kernel_unit(unit), PatchType::kBfloat16, half.data_ptr());
        EXPECT_TRUE(out.equal(truth)) << (out - truth).abs().max().item<float>();
        EXPECT_TRUE(half.equal(truth.to(at::kBFloat16)));
      }
}

TEST(PatchKernels, ErrorsAndGradientsAreTheModels) {
  for (const model::TokenGrid& grid : kGrids)
    for (model::TargetUnit unit : kUnits) {
      SCOPED_TRACE(describe(grid) + fmt::format(", unit {}", int(unit)));
      const Case c(grid);
      at::Tensor said = c.said.clone().requires_grad_();
      const at::Tensor truth = model::target_errors(said, c.video, c.ids, grid, unit);
      truth.backward(c.upstream);
      at::Tensor errors = at::empty({3, 4}, at::kFloat), gradient = c.empty(at::kFloat);
      reference::target_errors(c.input, kernel_unit(unit), PatchType::kFloat32,
                               c.said.const_data_ptr(), errors.data_ptr<float>());
      reference::target_errors_backward(c.input, kernel_unit(unit), PatchType::kFloat32,
                                        c.said.const_data_ptr(), c.upstream.const_data_ptr<float>(),
                                        gradient.data_ptr());
      // Only the order of additions differs.
      EXPECT_LT(((errors - truth) / truth).abs().max().item<float>(), 1e-6);
      EXPECT_TRUE(gradient.equal(said.grad()))
          << (gradient - said.grad()).abs().max().item<float>();
    }
}

TEST(PatchKernels, PredictionsInBfloat16AreReadAsTheyAre) {
  const model::TokenGrid& grid = kGrids[0];
  const Case c(grid);
  const at::Tensor half = c.said.to(at::kBFloat16);
  at::Tensor same = half.to(at::kFloat).requires_grad_();
  for (model::TargetUnit unit : kUnits) {
    same.mutable_grad() = at::Tensor();
    const at::Tensor truth = model::target_errors(same, c.video, c.ids, grid, unit);
    truth.backward(c.upstream);
    at::Tensor errors = at::empty({3, 4}, at::kFloat), gradient = c.empty(at::kBFloat16);
    reference::target_errors(c.input, kernel_unit(unit), PatchType::kBfloat16,
                             half.const_data_ptr(), errors.data_ptr<float>());
    reference::target_errors_backward(c.input, kernel_unit(unit), PatchType::kBfloat16,
                                      half.const_data_ptr(), c.upstream.const_data_ptr<float>(),
                                      gradient.data_ptr());
    EXPECT_LT(((errors - truth) / truth).abs().max().item<float>(), 1e-6);
    EXPECT_TRUE(gradient.equal(same.grad().to(at::kBFloat16)));
  }
}

}  // namespace
}  // namespace keiko::train
