// A published model as a whole: made from its config.json, run on clips.
//
// For features and comparisons; training's objectives build their modules themselves.

#pragma once
#include <ATen/core/Tensor.h>

#include <memory>

#include "model/published_config.h"

namespace keiko::model {

// Encoder, and head of a classifier; decoders and predictors are not part of it. Not thread-safe.
class PublishedModel {
 public:
  // `classes`: rows of the head, ignored by kinds without one. `dtype`: at::kFloat or at::kDouble.
  // VideoMAE runs on clips of config.num_frames alone, V-JEPA on any number of frames.
  PublishedModel(const PublishedConfig& config, int64_t classes, at::ScalarType dtype);
  ~PublishedModel();
  // Allocated; load() them before the first forward().
  Parameters& parameters() { return parameters_; }

  struct Output {
    at::Tensor tokens;  // [B, N, D] after the encoder's last norm, where it has one
    at::Tensor logits;  // [B, classes]; undefined without a head
  };
  // `video`: uint8 [B, 3, T, H, W] of the config's height and width. No graph is recorded. Throws
  // Error(kData) on another shape, naming both.
  Output forward(const at::Tensor& video) const;

 private:
  struct Modules;

  PublishedConfig config_;
  Parameters parameters_;
  std::unique_ptr<Modules> modules_;
};

}  // namespace keiko::model
