// The arrow of time: does a clip run as it was filmed?
//
// Every other clip, on average, is shown backwards, or with its two halves swapped; a VideoMAE
// encoder with one linear layer says which (Misra et al. 2016, "Shuffle and Learn"; Wei et al.
// 2018, "Learning and Using the Arrow of Time"). No labels are needed.

#pragma once
#include <string>
#include <vector>

#include "model/vit.h"
#include "objective/objective.h"

// The recipe's `objective` keys when objective.name is arrow_of_time.
struct ArrowOfTimeOptions : keiko::objective::ObjectiveOptions {
  keiko::model::VitOptions vit;
  std::string change = "reverse";  // or "swap_halves"

  void bind(keiko::config::Binder& b) override;
  std::unique_ptr<keiko::objective::Objective> make(
      const keiko::objective::ObjectiveContext& context) const override;
};

// Whether training shows the clip at `position` of the sample stream changed.
bool is_changed(uint64_t seed, int64_t position);
