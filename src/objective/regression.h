// Numbers: each output is one target, standardised, so that targets of any unit weigh the same and
// one learning rate suits them.
//
// The mean and spread of the training data are part of the weights, because without them the head's
// numbers mean nothing; what evaluation reports is in the targets' own units.

#pragma once
#include "objective/task.h"

namespace keiko::objective {

// Names of the statistics in model.safetensors, float64 [targets].
inline constexpr const char* kTargetMean = "regression.target_mean";
inline constexpr const char* kTargetStd = "regression.target_std";

// `targets`: an output each. `loss`: "mse" or "smooth_l1" (Huber's, from one spread on linear), of
// the standardised targets, averaged over those that are known of the clip.
std::unique_ptr<Task> make_regression(const std::vector<TargetColumn>& targets,
                                      const std::string& loss);

}  // namespace keiko::objective
