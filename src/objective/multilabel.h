// Several classes at once: a clip has any number of them, and each is a question of its own.
//
// Each output is the logit of one class; the loss is the binary cross entropy, averaged over the
// classes that are known of the clip.

#pragma once
#include "objective/task.h"

namespace keiko::objective {

// `names`: of the targets, an output each; targets are shares in [0, 1]. `label_smoothing` s moves
// them to (1 - s) t + s / 2.
std::unique_ptr<Task> make_multilabel(std::vector<std::string> names, double label_smoothing);

// The area under the steps of precision over recall: the sum over thresholds of the gain in recall
// times the precision there, equal scores being one threshold (as scikit-learn's
// average_precision_score). `score` float64 [n], `is_positive` bool [n]. A score that is no number
// is behind all. NaN without a positive.
double average_precision(const at::Tensor& score, const at::Tensor& is_positive);

}  // namespace keiko::objective
