#include "model/patches.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "model/device_kernels.h"
#include "model/patch_formulas.h"
#include "model/videomae.h"

namespace keiko::model {
namespace {

const TokenGrid kGrids[] = {{2, 3, 2, 2, 8}, {1, 2, 5, 3, 4}, {4, 1, 1, 1, 16}};

at::Tensor clips(const TokenGrid& g, int64_t high = 256) {
  return at::randint(
      high, {2, 3, g.times * g.tubelet_size, g.rows * g.patch_size, g.columns * g.patch_size},
      at::detail::createCPUGenerator(1), at::kByte);
}

// Some tokens of each clip, others for each, out of order and one of them twice.
at::Tensor some_ids(const TokenGrid& g) {
  const int64_t n = g.count();
  return at::tensor({n - 1, int64_t{0}, n / 2, int64_t{0}, n / 3, n - 1, int64_t{1}, n - 2})
      .view({2, 4});
}

TEST(Patches, AreThoseOfTheTensorOperations) {
  for (const TokenGrid& grid : kGrids)
    for (at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const at::Tensor video = clips(grid), ids = some_ids(grid);
      const at::Tensor chosen = gather_tokens(patchify(video, grid), ids);
      EXPECT_TRUE(
          take_patches(video, ids, grid, dtype).equal(normalise_patches(chosen, grid, dtype)));
      const at::Tensor unit = chosen.to(dtype).div_(255);
      const double tolerance = dtype == at::kDouble ? 1e-12 : 1e-5;
      const auto differs = [&](TargetUnit kind, const at::Tensor& truth) {
        return (take_targets(video, ids, grid, kind, dtype) - truth).abs().max().item<double>();
      };
      EXPECT_EQ(differs(TargetUnit::kUnit, videomae_target(unit, grid, false)), 0);
      EXPECT_EQ(differs(TargetUnit::kImageNet,
                        videomae_target(normalise_patches(chosen, grid, dtype), grid, false)),
                0);
      EXPECT_LT(differs(TargetUnit::kPatch, videomae_target(unit, grid, true)), tolerance);
    }
}

// Float32 keeps its digits where the pixels of a patch hardly differ, which the formula on floats
// does not.
TEST(Patches, NearlyEvenPatchesKeepTheirDigits) {
  const TokenGrid& grid = kGrids[0];
  const at::Tensor video = clips(grid, 2).add_(250), ids = some_ids(grid);
  const at::Tensor exact = take_targets(video, ids, grid, TargetUnit::kPatch, at::kDouble);
  const at::Tensor seen = take_targets(video, ids, grid, TargetUnit::kPatch, at::kFloat);
  EXPECT_LT((seen.to(at::kDouble) - exact).abs().max().item<double>(), 1e-6);
  const at::Tensor even = at::full_like(video, 77);
  EXPECT_EQ(take_targets(even, ids, grid, TargetUnit::kPatch, at::kFloat).abs().max().item<float>(),
            0);
}

TEST(Patches, ErrorsAndTheirGradientAreThoseOfTheFormula) {
  for (const TokenGrid& grid : kGrids)
    for (TargetUnit unit : {TargetUnit::kUnit, TargetUnit::kImageNet, TargetUnit::kPatch}) {
      const at::Tensor video = clips(grid), ids = some_ids(grid);
      const auto random = [&](at::IntArrayRef shape, uint64_t seed) {
        return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble);
      };
      at::Tensor predicted = random({2, 4, grid.patch_values()}, 2).requires_grad_();
      at::Tensor same = predicted.detach().clone().requires_grad_();
      const at::Tensor errors = target_errors(predicted, video, ids, grid, unit);
      const at::Tensor truth =
          (same - take_targets(video, ids, grid, unit, at::kDouble)).square().mean(2);
      EXPECT_LT((errors - truth).abs().max().item<double>(), 1e-13);
      const at::Tensor upstream = random({2, 4}, 3);
      errors.backward(upstream);
      truth.backward(upstream);
      EXPECT_LT((predicted.grad() - same.grad()).abs().max().item<double>(), 1e-15);
    }
}

// What other devices compute without kernels of their own, run here beside the CPU's.
TEST(Patches, TheFormulasGiveTheBitsOfTheKernels) {
  for (const TokenGrid& grid : kGrids)
    for (at::ScalarType dtype : {at::kFloat, at::kDouble})
      for (int64_t high : {256, 2}) {  // noise, and hardly any
        const at::Tensor video = clips(grid, high), ids = some_ids(grid);
        EXPECT_TRUE(formulas::take_patches(video, ids, grid, dtype)
                        .equal(take_patches(video, ids, grid, dtype)));
        for (TargetUnit unit : {TargetUnit::kUnit, TargetUnit::kImageNet, TargetUnit::kPatch}) {
          EXPECT_TRUE(formulas::take_targets(video, ids, grid, unit, dtype)
                          .equal(take_targets(video, ids, grid, unit, dtype)))
              << int(unit) << " " << at::toString(dtype);
          const auto random = [&](at::IntArrayRef shape, uint64_t seed) {
            return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble).to(dtype);
          };
          at::Tensor predicted = random({2, 4, grid.patch_values()}, 2).requires_grad_();
          at::Tensor same = predicted.detach().clone().requires_grad_();
          const at::Tensor by_kernel = target_errors(predicted, video, ids, grid, unit);
          const at::Tensor by_formula = formulas::target_errors(same, video, ids, grid, unit);
          const double tolerance = dtype == at::kDouble ? 1e-12 : 1e-6;
          const auto differ = [](const at::Tensor& a, const at::Tensor& b) {
            return ((a - b).abs().max() / b.abs().max()).item<double>();
          };
          EXPECT_LT(differ(by_formula, by_kernel), tolerance);
          const at::Tensor upstream = random({2, 4}, 3);
          by_kernel.backward(upstream);
          by_formula.backward(upstream);
          EXPECT_LT(differ(same.grad(), predicted.grad()), tolerance);
        }
      }
}

// Kernels of a device that has shapes alone: counts what it is asked for.
class Counting : public DeviceKernels {
 public:
  at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids,
                          const TokenGrid& grid) const override {
    return make(0, video, ids, {ids.size(0), ids.size(1), grid.patch_values()});
  }
  at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                          TargetUnit) const override {
    return make(1, video, ids, {ids.size(0), ids.size(1), grid.patch_values()});
  }
  at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                           const at::Tensor& ids, const TokenGrid&, TargetUnit) const override {
    EXPECT_TRUE(predicted.is_contiguous() && predicted.scalar_type() == at::kFloat);
    return make(2, video, ids, ids.sizes());
  }
  at::Tensor target_errors_backward(const at::Tensor& upstream, const at::Tensor& predicted,
                                    const at::Tensor& video, const at::Tensor& ids,
                                    const TokenGrid&, TargetUnit) const override {
    EXPECT_TRUE(upstream.is_contiguous() && upstream.sizes() == ids.sizes());
    return make(3, video, ids, predicted.sizes());
  }
  mutable std::vector<int> calls = {0, 0, 0, 0};

 private:
  at::Tensor make(size_t which, const at::Tensor& video, const at::Tensor& ids,
                  at::IntArrayRef shape) const {
    EXPECT_TRUE(video.is_meta() && video.is_contiguous() && ids.is_meta() && ids.is_contiguous());
    ++calls[which];
    return at::empty(shape, video.options().dtype(at::kFloat));
  }
};

TEST(Patches, ADevicesOwnKernelsDoItInFloat32) {
  const TokenGrid& grid = kGrids[0];
  const at::Tensor video = clips(grid).transpose(0, 1).contiguous().transpose(0, 1).to(at::kMeta);
  const at::Tensor ids = some_ids(grid).to(at::kMeta)[0].expand({2, -1});
  const auto work = [&](at::ScalarType dtype) {
    take_patches(video, ids, grid, dtype);
    take_targets(video, ids, grid, TargetUnit::kPatch, dtype);
    at::Tensor said =
        at::empty({2, 4, grid.patch_values()}, at::TensorOptions(dtype).device(at::kMeta));
    said.requires_grad_();
    target_errors(said, video, ids, grid, TargetUnit::kPatch).sum().backward();
    EXPECT_EQ(said.grad().sizes(), said.sizes());
  };
  const auto kernels = std::make_shared<Counting>();
  set_device_kernels(at::kMeta, kernels);
  work(at::kFloat);
  EXPECT_EQ(kernels->calls, (std::vector<int>{1, 1, 1, 1}));
  work(at::kDouble);  // by formulas
  set_device_kernels(at::kMeta, nullptr);
  work(at::kFloat);
  EXPECT_EQ(kernels->calls, (std::vector<int>{1, 1, 1, 1}));
}

TEST(Patches, ClipsAndIndicesOnTwoDevicesAreRefused) {
  const at::Tensor video = clips(kGrids[0]), ids = some_ids(kGrids[0]);
  EXPECT_THROW(take_patches(video.to(at::kMeta), ids, kGrids[0], at::kFloat), Error);
  EXPECT_THROW(take_targets(video, ids.to(at::kMeta), kGrids[0], TargetUnit::kUnit, at::kFloat),
               Error);
}

TEST(Patches, ErrorsAreTheSameBitsForAnyNumberOfThreads) {
  const TokenGrid grid{8, 4, 4, 2, 8};
  const at::Tensor video = clips(grid);
  const at::Tensor ids = at::arange(grid.count()).expand({2, -1});
  const at::Tensor said = at::randn({2, grid.count(), grid.patch_values()},
                                    at::detail::createCPUGenerator(4), at::kFloat);
  const int before = at::get_num_threads();
  std::vector<at::Tensor> seen;
  for (int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    seen.push_back(target_errors(said, video, ids, grid, TargetUnit::kPatch));
  }
  at::set_num_threads(before);
  EXPECT_TRUE(seen[1].equal(seen[0]) && seen[2].equal(seen[0]));
}

TEST(Patches, ClipsOfAnotherSizeAreRefused) {
  EXPECT_THROW(take_patches(clips(kGrids[0]), some_ids(kGrids[0]), kGrids[1], at::kFloat), Error);
}

}  // namespace
}  // namespace keiko::model
