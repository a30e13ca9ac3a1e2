// Every kind of objective, small, for tests of what it does on a device: see
// model/meta_device_for_tests.h.

#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "config/tree.h"
#include "objective/objective.h"

namespace keiko::objective {

struct DeviceCase {
  std::string keys;  // of a recipe's `objective`
  int uploads = 0;   // copies to the device that loss() and its backward pass need
};

inline std::vector<DeviceCase> device_cases() {
  const std::string small = "model: custom, width: 24, depth: 2, heads: 2, patch_size: 8";
  const std::string vjepa2 =
      "name: vjepa2, predictor_width: 16, predictor_depth: 1, predictor_heads: 2, "
      "masks: [{blocks: 1, scale: 0.4}, {blocks: 2, scale: 0.2}], " +
      small;
  return {
      {"name: videomae, mask_ratio: 0.5, decoder_width: 16, decoder_heads: 2, " + small, 1},
      {"name: videomae, mask: random, positions: learned, decoder_heads: 1, " + small, 1},
      {"name: videomae, mask: future, mask_ratio: 0.5, norm_pix_loss: false, decoder_heads: 1, " +
           small,
       1},
      {"name: videomae, mask_ratio: 0.5, norm_pix_loss: false, pixel_target: imagenet, "
       "decoder_mask_ratio: 0.5, decoder_heads: 1, " +
           small,
       1},
      {vjepa2, 1},
      {vjepa2 + ", positions: rope_interleaved, context_loss: 0.5, context_loss_warmup: [0, 1]", 1},
      {"name: classification, " + small, 0},
      {"name: classification, drop_path: 0.3, label_smoothing: 0.1, ema: 0.9, " + small, 1},
      {"name: classification, mixup: 0.8, cutmix: 1, " + small, 1},
      {"name: classification, backbone: vjepa2, pooler_depth: 1, drop_path: 0.3, mixup: 0.8, " +
           small,
       1},
      {"name: classification, target: multilabel, label_smoothing: 0.1, mixup: 0.8, ema: 0.9, " +
           small,
       1},
      {"name: classification, target: regression, mixup: 0.8, " + small, 1},
      {"name: classification, target: regression, regression_loss: smooth_l1, backbone: vjepa2, "
       "pooler_depth: 1, " +
           small,
       0},
      {"name: probe, lr_scales: [1, 2], " + small, 0},
      {"name: probe, backbone: vjepa2, " + small, 0},
      {"name: probe, pooling: attentive, pooler_heads: 2, " + small, 0},
  };
}

// Of clips of 4 frames of 16x16 pixels, in float32.
inline std::unique_ptr<Objective> make(const DeviceCase& c) {
  ObjectiveChoice choice;
  config::read_options(config::parse_yaml("{" + c.keys + "}", "test"), choice);
  ObjectiveContext context{4, 16, 3, {"a", "b", "c"}, at::kFloat, 4};
  context.targets = {{"x", 0.5, 0.25}, {"y", 0.4, 1}};
  return choice.options->make(context);
}

// A batch of training on `device`; its numbers are zeros.
inline MicroBatch batch_on(at::Device device, int64_t clips) {
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

}  // namespace keiko::objective
