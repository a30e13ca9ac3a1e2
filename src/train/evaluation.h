// Runs an objective over every item of a data set, each exactly once at any world size.
//
// An item may be looked at in several views (clips); they come one after the other in the same
// micro-batch, and the objective makes one row of them.

#pragma once
#include <functional>
#include <nlohmann/json.hpp>

#include "base/env.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "dist/communicator.h"
#include "objective/objective.h"
#include "train/recipe.h"

namespace keiko::train {

// Clips as the objective gets them; a view of `batch`'s memory, valid as long as it is. The video
// is on the GPU where that memory is; labels and targets are in host memory.
objective::MicroBatch view_batch(data::Batch& batch, const data::ClipOptions& clip, int64_t first,
                                 int64_t last);
// The same for training: with the step and the positions of its whole batch of `batch_size` clips.
objective::MicroBatch view_training_batch(data::Batch& batch, const Recipe& recipe, int64_t first,
                                          int64_t last);

// Its tensors on `device`, those that are not there already: there they come in the order of the
// stream, so that the batch's memory must stay until the host has waited for something that was
// computed of them.
objective::MicroBatch to_device(objective::MicroBatch micro, at::Device device);

// Evaluates items [0, min(max_items, all)) of `dataset`, shared out over the ranks. Returns the
// objective's summary, equal on all ranks. All ranks call it at the same time. `progress` may be
// empty, and so may `make_buffer`: slots are in the heap then. Views are the data set's. Throws
// Error(kUsage) when there are several and the objective does not average over them, Error(kData)
// when an item cannot be decoded or lacks a label that is needed.
nlohmann::ordered_json evaluate(Env* env, objective::Objective& objective,
                                const data::Dataset& dataset, const EvalOptions& options,
                                int decode_threads, dist::Communicator& communicator,
                                const data::MakeDecoder& make_decoder,
                                const std::function<void(int64_t done, int64_t total)>& progress,
                                const media::MakeBuffer& make_buffer = nullptr);

// The objective's rows behind evaluate()'s figures, float64 [items, evaluation_columns()], in the
// order of the items; equal on all ranks. Throws as evaluate() does.
at::Tensor evaluate_rows(Env* env, objective::Objective& objective, const data::Dataset& dataset,
                         const EvalOptions& options, int decode_threads,
                         dist::Communicator& communicator, const data::MakeDecoder& make_decoder,
                         const std::function<void(int64_t done, int64_t total)>& progress,
                         const media::MakeBuffer& make_buffer = nullptr);

// What an encoder makes of every item, and the items' labels (-1: none).
struct Features {
  at::Tensor features;  // float64 [items, D]
  at::Tensor labels;    // int64 [items]
};

// The same items as evaluate(), equal on all ranks. Throws Error(kUsage) when the objective has no
// encoder of whole clips.
Features collect_features(Env* env, objective::Objective& objective, const data::Dataset& dataset,
                          const EvalOptions& options, int decode_threads,
                          dist::Communicator& communicator, const data::MakeDecoder& make_decoder,
                          const std::function<void(int64_t done, int64_t total)>& progress,
                          const media::MakeBuffer& make_buffer = nullptr);

// Weighted k-nearest-neighbour votes (Wu et al. 2018, "Unsupervised Feature Learning via
// Non-Parametric Instance Discrimination"): cosine similarity, each of the k nearest of `known`
// votes for its label with exp(similarity / temperature). `asked` [n, D] -> votes [n, classes].
at::Tensor knn_scores(const Features& known, const at::Tensor& asked, int64_t k, int64_t classes,
                      double temperature = 0.07);

}  // namespace keiko::train
