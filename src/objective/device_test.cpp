// What a GPU needs of every objective, shown without one: see model/meta_device_for_tests.h.

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/meta_device_for_tests.h"
#include "model/runners.h"
#include "objective/device_cases_for_tests.h"

namespace keiko::objective {
namespace {

std::string list(const std::vector<std::string>& faults) {
  return fmt::format("{}", fmt::join(faults, "; "));
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
  return "no error";
}

// A training step's arithmetic is the device's alone: the host sends what it drew, and waits for
// nothing. Gradients stay in the flat buffers.
TEST(Device, AStepOfAnyObjectiveNeverWaitsForIt) {
  for (const DeviceCase& c : device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c);
    objective->move_to(at::kMeta);
    const MicroBatch batch = batch_on(at::kMeta, 6);
    const model::BlockRunner keeping;
    const model::CheckpointingRunner recomputing;
    const model::WatchingRunner watching(recomputing);
    for (const model::BlockRunner* runner :
         std::initializer_list<const model::BlockRunner*>{&keeping, &recomputing, &watching}) {
      const model::MetaWatch watch;
      LossSums sums;
      ASSERT_EQ(error_of([&] { sums = objective->loss(batch, *runner); }), "no error");
      const int forward = watch.operations();
      EXPECT_TRUE(sums.loss.is_meta() && sums.loss.dim() == 0);
      if (!objective->metric_names().empty()) {
        EXPECT_TRUE(sums.metrics.is_meta());
        EXPECT_EQ(sums.metrics.sizes(), at::IntArrayRef{int64_t(objective->metric_names().size())});
      }
      ASSERT_EQ(error_of([&] { sums.loss.backward(at::full_like(sums.loss, 0.5)); }), "no error");
      EXPECT_GT(watch.operations(), forward) << "the watch does not see the backward pass";
      objective->after_step(1);
      EXPECT_EQ(list(watch.faults()), "");
      EXPECT_EQ(watch.uploads(), c.uploads);
      EXPECT_TRUE(watch.downloads().empty());
      for (const model::Parameter& p : objective->parameters().all()) {
        EXPECT_TRUE(p.value.is_meta() && p.value.grad().is_meta()) << p.spec.name;
        EXPECT_TRUE(p.value.grad().is_alias_of(objective->parameters().blocks()[p.storage].grad))
            << p.spec.name << " left its buffer";
      }
    }
  }
}

// Evaluation, features and pictures come to the CPU in one copy at the end.
TEST(Device, WhatIsLookedAtComesToTheHostAtTheEnd) {
  for (const DeviceCase& c : device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c);
    objective->move_to(at::kMeta);
    MicroBatch batch = batch_on(at::kMeta, 4);
    const auto download = [&](const char* what, const auto& run) {
      SCOPED_TRACE(what);
      const model::MetaWatch watch;
      EXPECT_EQ(error_of(run), "Cannot copy out of meta tensor; no data!");
      EXPECT_EQ(list(watch.faults()), "");
      EXPECT_EQ(watch.downloads().size(), 1u);
      return watch.downloads().empty() ? std::vector<int64_t>() : watch.downloads()[0];
    };
    // The clip is left as it is, so the columns tell what came: [b, ...].
    const auto picture = download("picture", [&] { return objective->picture(batch); });
    ASSERT_EQ(picture.size(), 6u);
    EXPECT_EQ(picture[0], 4);
    batch.step = -1;
    batch.views = 2;
    const auto features = download("features", [&] { return objective->features(batch); });
    EXPECT_EQ(features, (std::vector<int64_t>{2, 24}));
    const bool averages = c.keys.find("videomae, m") == std::string::npos;
    if (!averages) batch.views = 1;  // its evaluation has a row for each clip
    const auto rows = download("evaluate", [&] { return objective->evaluate(batch); });
    EXPECT_EQ(rows, (std::vector<int64_t>{averages ? 2 : 4,
                                          int64_t(objective->evaluation_columns().size())}));
  }
}

TEST(Device, EverythingThatIsSavedMovesAndCalibrationStaysThere) {
  for (const DeviceCase& c : device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c);
    objective->move_to(at::kMeta);
    for (const auto& tensors :
         {objective->weights(), objective->ema_weights(), objective->statistics()})
      for (const auto& [name, tensor] : tensors) EXPECT_TRUE(tensor.is_meta()) << name;
    EXPECT_EQ(objective->parameters().device(), at::Device(at::kMeta));
    const model::MetaWatch watch;
    objective->calibrate(batch_on(at::kMeta, 4));
    EXPECT_EQ(list(watch.faults()), "");
  }
}

// What is drawn is the same everywhere, and who audits it needs no device.
TEST(Device, FieldsStayOnTheCpuAndAreTheSame) {
  for (const DeviceCase& c : device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto here = make(c), there = make(c);
    there->move_to(at::kMeta);
    const auto fields = here->fields(batch_on(at::kCPU, 6));
    const auto same = there->fields(batch_on(at::kMeta, 6));
    ASSERT_EQ(fields.size(), same.size());
    for (size_t i = 0; i < fields.size(); ++i)
      EXPECT_TRUE(fields[i].second.is_cpu() && fields[i].second.equal(same[i].second))
          << fields[i].first;
  }
}

}  // namespace
}  // namespace keiko::objective
