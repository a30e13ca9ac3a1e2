// The models that `keiko bench` knows by name, and clips to run them on.

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "objective/objective.h"

namespace keiko::cli {

// "videomae-s", ...
std::vector<std::string> bench_model_names();

// A published model for clips of `frames` frames, `side` pixels square, with first weights of
// seed 1. `steps`: of the whole run, which schedules inside the objective follow. `dry_run`:
// parameters are declared, not allocated. Throws Error(kUsage) for a name that is not known.
std::unique_ptr<objective::Objective> make_bench_model(const std::string& model, int64_t frames,
                                                       int64_t side, int64_t steps,
                                                       bool dry_run = false);

// Clips of noise with labels: what they show makes no difference to the time of a step. Positions
// are as many as clips, and zero.
objective::MicroBatch random_bench_batch(int64_t clips, int64_t frames, int64_t side);

}  // namespace keiko::cli
