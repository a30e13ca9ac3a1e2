// How a global batch is cut: into the ranks' slices, and those into micro-batches.
//
// Clips that belong together (views of the same frames) form groups of consecutive positions.
// Slices and micro-batches hold whole groups, so that nothing that is shared within one crosses a
// cut.

#pragma once
#include "data/loader.h"
#include "train/recipe.h"

namespace keiko::train {

// Consecutive clips of a batch that must stay together, on one rank and in one micro-batch.
int64_t group_of(const Recipe& recipe);

// Throws Error(kUsage) when batch_size or micro_batch_size does not hold whole groups, or when
// there are more ranks than groups in a batch. Call before meeting the others.
void check_batch(const Recipe& recipe, int64_t group, int64_t world_size);

// The slice of a step's batch that a rank takes; slices differ by one group at most. `batch_size`
// is a multiple of `group`.
data::Slice slice_of_rank(int64_t step, int64_t batch_size, int64_t group, int64_t rank,
                          int64_t world_size);

// Clips that a rank with `clips` of them runs at once: micro_batch_size, or all when that is 0.
// Throws Error(kInternal) when that would cut a group.
int64_t micro_batch_of(const Recipe& recipe, int64_t clips, int64_t group);

// Micro-batches of the rank that has most of them.
int64_t most_micro_batches(const Recipe& recipe, int64_t group, int64_t world_size);

}  // namespace keiko::train
