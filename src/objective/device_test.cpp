// What a GPU needs of every objective, shown without one: see model/meta_device_for_tests.h.

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>

#include "config/tree.h"
#include "model/meta_device_for_tests.h"
#include "model/runners.h"
#include "objective/objective.h"

namespace keiko::objective {
namespace {

const std::string kSmall = "model: custom, width: 24, depth: 2, heads: 2, patch_size: 8";
const std::string kVJepa2 =
    "name: vjepa2, predictor_width: 16, predictor_depth: 1, predictor_heads: 2, "
    "masks: [{blocks: 1, scale: 0.4}, {blocks: 2, scale: 0.2}], " +
    kSmall;

struct Case {
  std::string keys;
  int uploads;  // copies that loss() and its backward pass may need
};
const std::vector<Case> kCases = {
    {"name: videomae, mask_ratio: 0.5, decoder_width: 16, decoder_heads: 2, " + kSmall, 1},
    {"name: videomae, mask: random, positions: learned, decoder_heads: 1, " + kSmall, 1},
    {"name: videomae, mask: future, mask_ratio: 0.5, norm_pix_loss: false, decoder_heads: 1, " +
         kSmall,
     1},
    {"name: videomae, mask_ratio: 0.5, norm_pix_loss: false, pixel_target: imagenet, "
     "decoder_mask_ratio: 0.5, decoder_heads: 1, " +
         kSmall,
     1},
    {kVJepa2, 1},
    {kVJepa2 + ", positions: rope_interleaved, context_loss: 0.5, context_loss_warmup: [0, 1]", 1},
    {"name: classification, " + kSmall, 0},
    {"name: classification, drop_path: 0.3, label_smoothing: 0.1, ema: 0.9, " + kSmall, 1},
    {"name: classification, mixup: 0.8, cutmix: 1, " + kSmall, 2},
    {"name: classification, backbone: vjepa2, pooler_depth: 1, drop_path: 0.3, mixup: 0.8, " +
         kSmall,
     3},
    {"name: classification, target: multilabel, label_smoothing: 0.1, mixup: 0.8, ema: 0.9, " +
         kSmall,
     2},
    {"name: classification, target: regression, mixup: 0.8, " + kSmall, 2},
    {"name: classification, target: regression, regression_loss: smooth_l1, backbone: vjepa2, "
     "pooler_depth: 1, " +
         kSmall,
     0},
    {"name: probe, lr_scales: [1, 2], " + kSmall, 0},
    {"name: probe, backbone: vjepa2, " + kSmall, 0},
    {"name: probe, pooling: attentive, pooler_heads: 2, " + kSmall, 0},
};

std::unique_ptr<Objective> make(const std::string& keys) {
  ObjectiveChoice choice;
  config::read_options(config::parse_yaml("{" + keys + "}", "test"), choice);
  ObjectiveContext context{4, 16, 3, {"a", "b", "c"}, at::kFloat, 4};
  context.targets = {{"x", 0.5, 0.25}, {"y", 0.4, 1}};
  return choice.options->make(context);
}

MicroBatch batch_on(at::Device device, int64_t clips) {
  MicroBatch batch;
  const auto options = [&](at::ScalarType dtype) {
    return at::TensorOptions(dtype).device(device);
  };
  batch.video = at::zeros({clips, 3, 4, 16, 16}, options(at::kByte));
  batch.label = at::zeros({clips}, options(at::kLong));
  batch.target = at::zeros({clips, 2}, options(at::kFloat));
  for (int64_t i = 0; i < clips; ++i) batch.positions.push_back(100 + i);
  batch.step = 25;
  batch.batch_first = 100;
  batch.batch_last = 100 + clips;
  return batch;
}

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
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c.keys);
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
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c.keys);
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
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c.keys);
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
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.keys);
    const auto here = make(c.keys), there = make(c.keys);
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
