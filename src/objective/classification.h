// Supervised classification of whole clips: pretrained or fresh encoder, mean of tokens, linear
// head.

#pragma once
#include "model/videomae.h"
#include "objective/objective.h"

namespace keiko::objective {

struct ClassificationOptions : ObjectiveOptions {
  model::VitOptions vit;
  int64_t num_classes = 0;  // 0: as many as the catalogue has
  double label_smoothing = 0;
  double drop_path = 0;  // of the last block; grows linearly from 0

  void bind(config::Binder& b) override;
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

// Shared with the probe: what a classifier reports.
std::vector<std::string> classification_columns();
// Rows [b, columns] from logits [b, classes] and labels [b].
at::Tensor classification_rows(const at::Tensor& logits, const at::Tensor& label);
// Loss, top-1 with its 95% Wilson interval, top-5 where there are more than five classes, and top-1
// of every class.
nlohmann::ordered_json summarize_classification(const at::Tensor& rows,
                                                const std::vector<std::string>& class_names);

}  // namespace keiko::objective
