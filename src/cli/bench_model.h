// The models that `keiko bench` knows by name, and clips to run them on.

#pragma once
#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

#include "objective/objective.h"

namespace keiko::cli {

// What is run: a model, and clips of each rank.
struct BenchClips {
  std::string model = "videomae-s";
  int64_t batch = 4, frames = 16, side = 224;  // clips; frames of one; pixels along its sides
};

// Adds --model, --batch, --frames and --side. `clips` outlives the command.
void add_clip_options(CLI::App& command, BenchClips& clips);

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
