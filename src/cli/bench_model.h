// The models that `keiko bench` knows by name, clips to run them on, and a step of training.

#pragma once
#include <CLI/CLI.hpp>

#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gpu/accelerator.h"
#include "objective/objective.h"
#include "optim/adamw.h"
#include "train/recorded_passes.h"

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

// Seconds of the parts of a step, in the order they run.
constexpr const char* kStepParts[] = {"zero_grad", "forward", "backward", "norm", "optimizer"};
constexpr size_t kStepPartCount = std::size(kStepParts);

struct StepTime {
  double part[kStepPartCount] = {};
  double loss = 0;  // mean over the batch
  double total() const;
};

// One training step on `batch`, as train/trainer.cpp does it with one rank and one micro-batch.
// `step` counts from 0; the batch gets its positions. `gpu`: where objective and batch are, whose
// work is waited for after each part; null: the CPU. `recorded`: what runs both passes, whose time
// then counts as forward; null: they run as they are.
StepTime run_bench_step(objective::Objective& objective, optim::AdamW& adamw,
                        objective::MicroBatch& batch, int64_t step, bool use_autocast,
                        gpu::Accelerator* gpu = nullptr, train::RecordedPasses* recorded = nullptr);

}  // namespace keiko::cli
