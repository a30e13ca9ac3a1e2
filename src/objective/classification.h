// Classification: an encoder and a head, trained together. The head says a class, several classes
// at once, or numbers.
//
// VideoMAE's way is the mean token, a norm and a linear head; V-JEPA 2's an attentive pooler and a
// linear head. Fine-tuning starts the encoder from a pretraining run or a published checkpoint.

#pragma once
#include "model/videomae.h"
#include "model/vjepa2.h"
#include "objective/mixup.h"
#include "objective/objective.h"

namespace keiko::objective {

struct ClassificationOptions : ObjectiveOptions {
  std::string backbone = "videomae";  // or "vjepa2"
  model::VitOptions vit;
  int64_t pooler_depth = 3;             // vjepa2: self-attention blocks before the pooling one
  std::string target = "class";         // or "multilabel", "regression": of the data's targets
  std::string regression_loss = "mse";  // or "smooth_l1"
  int64_t num_classes = 0;              // outputs of the head; 0: as many as the data has
  double label_smoothing = 0;
  double drop_path = 0;  // of the last block; the first has none
  MixupOptions mixup;
  double ema = 0;  // momentum of averaged weights, which are then the ones evaluated; 0: off

  void bind(config::Binder& b) override;
  int64_t group_size() const override { return mixup.is_on() ? 2 : 1; }
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

// Stochastic depth (Huang et al. 2016): what each branch of each block of each clip is multiplied
// by: 0 with a probability that grows linearly with depth up to `rate`, else 1 / (1 - it).
// float64 [depth, 2, b] on the CPU, or undefined when rate is 0.
at::Tensor make_drop_path(double rate, int64_t depth, uint64_t seed,
                          const std::vector<int64_t>& positions);

// What evaluation reports of a classifier: rows of these columns, and figures from all rows.
std::vector<std::string> classification_columns();
// `logits` [b * views, classes], `label` [b * views]: views of an item are consecutive. Their
// softmax is averaged; one row for each item.
at::Tensor classification_rows(const at::Tensor& logits, const at::Tensor& label, int64_t views);
nlohmann::ordered_json summarize_classification(const at::Tensor& rows,
                                                const std::vector<std::string>& class_names);

// For start_from: "vjepa2." before the names of a bare V-JEPA model, or taken away where the model
// wants none; other names stay.
std::vector<model::NamedTensor> with_vjepa2_prefix(std::vector<model::NamedTensor> tensors,
                                                   bool wanted);

}  // namespace keiko::objective
