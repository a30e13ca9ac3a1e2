// What is asked of a clip, and how the answers of a head are judged: one class out of several,
// several classes at once, or numbers. The network beneath knows nothing of it.

#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "objective/mixup.h"
#include "objective/objective.h"

namespace keiko::objective {

// Not thread-safe.
class Task {
 public:
  virtual ~Task() = default;

  // As of Objective. By default there is nothing to move.
  virtual void move_to(at::Device device) { (void)device; }
  // `outputs` [b, outputs of the head], with their graph. What a clip shows, its answer is mixed
  // of. A sum over clips; metrics too.
  virtual LossSums loss(const at::Tensor& outputs, const MicroBatch& batch,
                        const MixTensors& mix) const = 0;
  virtual std::vector<std::string> metric_names() const = 0;

  // What evaluation keeps of each item, float64 [items, columns], without a graph, where `outputs`
  // are; "loss" comes first. Answers to the views of an item are averaged.
  virtual std::vector<std::string> evaluation_columns() const = 0;
  virtual at::Tensor rows(const at::Tensor& outputs, const MicroBatch& batch) const = 0;
  virtual nlohmann::ordered_json summarize(const at::Tensor& rows) const = 0;

  // As of Objective.
  virtual std::vector<model::NamedTensor> statistics() const { return {}; }
  // What transformers calls it in config.json; "": it needs no word.
  virtual std::string problem_type() const { return ""; }
};

// `values` [b, columns] over the columns that are known, [b]; 0 where none is. A column that is not
// known has no gradient.
at::Tensor mean_over_known(const at::Tensor& values, const at::Tensor& is_known);

// The mean of `loss` over the rows that know a column; 0 when none does. A row without one has lost
// nothing, and so says nothing.
double mean_loss(const at::Tensor& loss, const at::Tensor& is_known);

}  // namespace keiko::objective
