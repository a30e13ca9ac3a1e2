// Whole steps of training on a device, shown without one: see model/meta_device_for_tests.h. Here,
// because no room below sees objectives and the optimiser.

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "model/meta_device_for_tests.h"
#include "objective/device_cases_for_tests.h"
#include "optim/adamw.h"

namespace keiko::train {
namespace {

// Loss, gradients, clipping, update and averages of two steps: the host hands over what it drew,
// and may be steps ahead of the device.
TEST(DeviceStep, OfAnyObjectiveWaitsForNothing) {
  for (const objective::DeviceCase& c : objective::device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto objective = objective::make(c);
    objective->move_to(at::kMeta);
    if (objective->head_block() > 0)
      optim::decay_layers(objective->parameters(), 0.75, objective->head_block());
    optim::AdamW adamw(objective->parameters(), {});
    const objective::MicroBatch batch = objective::batch_on(at::kMeta, 6);
    const model::MetaWatch watch;
    for (int64_t step = 1; step <= 2; ++step) {
      objective->parameters().zero_grad();
      const objective::LossSums sums = objective->loss(batch, model::BlockRunner());
      sums.loss.backward(at::full_like(sums.loss, 1.0 / 6));
      EXPECT_TRUE(optim::squared_norms(adamw.owned()).is_meta());
      adamw.scale_gradients(0.5);
      adamw.step(1e-3, 0.05, step);
      objective->after_step(step);
    }
    EXPECT_EQ(fmt::format("{}", fmt::join(watch.faults(), "; ")), "");
    EXPECT_EQ(watch.uploads(), 2 * c.uploads);
    EXPECT_TRUE(watch.downloads().empty());
    EXPECT_GT(watch.operations(), 0);
  }
}

}  // namespace
}  // namespace keiko::train
