#include "model/runners.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "model/vjepa2.h"

namespace keiko::model {
namespace {

// Loss and gradients of a small classifier, its blocks run by `runner`.
struct Step {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};
// With `steps` > 1 the weights move in between, by a tenth of the gradients. `autocast`: in bf16,
// as training does it.
Step step_with(const BlockRunner& runner, at::ScalarType dtype, int steps = 1,
               bool autocast = false) {
  VitOptions vit;
  vit.model = "custom";
  vit.width = 24;
  vit.depth = 3;
  vit.heads = 2;
  vit.patch_size = 4;
  vit.positions = "rope";
  const TokenGrid grid = make_grid(vit, 4, 16);
  Parameters parameters(dtype);
  const VJepa2Classifier model(parameters, vit, grid.rows, {1, 2}, 5);
  parameters.allocate(3);
  at::manual_seed(1);
  const at::Tensor patches = at::randn({2, grid.count(), grid.patch_values()}, dtype);
  const at::Tensor ids = at::arange(grid.count(), at::kLong).unsqueeze(0).expand({2, -1});
  const at::Tensor keep =
      at::tensor({0.0, 1.25, 1.25, 1.25}, at::kDouble).to(dtype).view({1, 2, 2}).expand({3, 2, 2});
  at::Tensor loss;
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      const c10::NoGradGuard no_grad;
      for (auto& buffer : parameters.buffers()) buffer.value.sub_(buffer.grad, 0.1);
    }
    parameters.zero_grad();
    at::autocast::set_autocast_enabled(at::kCPU, autocast);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::increment_nesting();
    loss = at::cross_entropy_loss(model.forward(patches, ids, keep, runner).to(dtype),
                                  at::tensor({1, 4}, at::kLong));
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    loss.backward();
  }
  Step step{loss.item<double>(), {}};
  for (const auto& buffer : parameters.buffers()) step.gradients.push_back(buffer.grad.clone());
  return step;
}

TEST(CheckpointingRunner, GradientsAreTheSameToTheBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const Step kept = step_with(BlockRunner(), dtype);
    const Step recomputed = step_with(CheckpointingRunner(), dtype);
    EXPECT_EQ(kept.loss, recomputed.loss);
    ASSERT_EQ(kept.gradients.size(), recomputed.gradients.size());
    for (size_t i = 0; i < kept.gradients.size(); ++i) {
      EXPECT_TRUE(kept.gradients[i].equal(recomputed.gradients[i])) << i;
      EXPECT_GT(kept.gradients[i].abs().max().item<double>(), 0) << i;
    }
  }
}

// Converted weights are cached by autocast: a step must not find those of the step before.
TEST(CheckpointingRunner, UnderAutocastEveryStepSeesItsOwnWeights) {
  const Step kept = step_with(BlockRunner(), at::kFloat, 3, true);
  const Step recomputed = step_with(CheckpointingRunner(), at::kFloat, 3, true);
  EXPECT_EQ(kept.loss, recomputed.loss);
  for (size_t i = 0; i < kept.gradients.size(); ++i)
    EXPECT_TRUE(kept.gradients[i].equal(recomputed.gradients[i])) << i;
}

TEST(WatchingRunner, SeesEveryBlockAndChangesNothing) {
  const BlockRunner straight;
  const WatchingRunner watching(straight);
  const Step watched = step_with(watching, at::kDouble), plain = step_with(straight, at::kDouble);
  EXPECT_EQ(watched.loss, plain.loss);
  std::vector<int> blocks;
  for (const auto& [block, rms] : watching.seen()) {
    blocks.push_back(block);
    EXPECT_GT(rms, 0);
  }
  EXPECT_EQ(blocks, (std::vector<int>{1, 2, 3, 4, 5}));  // three blocks, two of the pooler
}

}  // namespace
}  // namespace keiko::model
