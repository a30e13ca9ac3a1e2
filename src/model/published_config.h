// The config.json of a published model: which model it is, and its sizes.
//
// Reads what transformers' VideoMAE and VJEPA2 configurations write, in any version; unknown keys
// are ignored, as transformers does. Defaults are those of the transformers classes. A model of
// Keiko's own that starts from one of theirs (a probe) is read as its bare encoder.

#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/videomae.h"
#include "model/vjepa2.h"

namespace keiko::model {

enum class PublishedKind {
  kVideoMae,  // a bare encoder; its tensors may lack the prefix "videomae." in the file
  kVideoMaePretraining,
  kVideoMaeClassifier,
  kVJepa2,  // encoder and predictor; its tensors may have the prefix "vjepa2."
  kVJepa2Classifier,
};

struct PublishedConfig {
  PublishedKind kind = PublishedKind::kVideoMae;
  VitOptions vit;
  int64_t num_frames = 16;            // V-JEPA: what it was trained with; any number works
  int64_t height = 224, width = 224;  // pixels
  // VideoMAE
  DecoderOptions decoder;
  bool mean_pooling = true;
  bool norm_pix_loss = true;
  // V-JEPA
  PredictorOptions predictor;
  PoolerOptions pooler;
  std::vector<std::string> class_names;  // by class number; empty: config.json does not say
  std::string problem_type;              // of a classifier, in transformers' words; often empty

  bool is_vjepa2() const {
    return kind == PublishedKind::kVJepa2 || kind == PublishedKind::kVJepa2Classifier;
  }
  bool is_classifier() const {
    return kind == PublishedKind::kVideoMaeClassifier || kind == PublishedKind::kVJepa2Classifier;
  }
  // Tokens along the square that V-JEPA's positions are counted in.
  int64_t side() const { return height / vit.patch_size; }
};

// `where` names the file in errors. Throws Error(kData) naming key and value for a model that is
// neither of the two, or one that Keiko cannot compute (dropout, other activations, not 3
// channels).
PublishedConfig read_published_config(const nlohmann::json& config, const std::string& where);

// Announces every parameter that a checkpoint of this kind holds, under its published name
// (not allocated). `classes`: rows of the classifier; ignored by other kinds.
void declare_published(Parameters& parameters, const PublishedConfig& config, int64_t classes);

}  // namespace keiko::model
