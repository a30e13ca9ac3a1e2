// Brings a run's tensors back from a checkpoint, straight to where they are kept.
//
// Each rank reads what it keeps and no more: its parts of the moments, whoever wrote them, and its
// parts of the weights where those are shared out. Nothing of a file is in memory besides, but a
// piece of at most model::kPieceNumbers numbers where it cannot be read in place (on GPUs, or in
// another dtype), and the tensors that an objective holds besides its parameters (a frozen
// encoder).

#pragma once
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/env.h"
#include "dist/sharding.h"
#include "model/safetensors.h"
#include "objective/objective.h"
#include "optim/adamw.h"

namespace keiko::train {

// The optimiser files of a checkpoint as one: their stretches of every state, joined in the order
// of the files' numbers. Not thread-safe.
class StoredMoments {
 public:
  // Reads the headers of the `files` files. `env` outlives it. Throws Error(kData) or Error(kIo)
  // naming the file.
  StoredMoments(Env* env, const std::string& folder, int64_t files);
  // As optim::ReadState. Throws Error(kData) naming a state that is not there or that does not have
  // `numbers` numbers.
  void read(const std::string& name, int64_t numbers, int64_t start, const at::Tensor& into);

 private:
  struct Stretch {
    int64_t file;
    model::TensorEntry entry;
    int64_t start;  // in the whole state
  };
  const ReadableFile& open(int64_t file);

  Env* env_;
  std::string folder_;
  int64_t files_;
  std::map<std::string, std::vector<Stretch>> stretches_;
  // One at a time: there may be more files than a process may have open.
  std::unique_ptr<ReadableFile> file_;
  int64_t is_open_ = -1;  // which
};

// "optimizer-1-of-4.safetensors": part 1 of the moments of 4.
std::string optimizer_file(int64_t part, int64_t parts);

// Reads `folder`/state.json. Throws Error(kData) or Error(kIo) naming it.
nlohmann::json read_state(Env* env, const std::string& folder);

// Weights and moving averages of the checkpoint `folder`. `shares`: of trained parameters only the
// numbers that this rank keeps are read, the others stay as they are; null: all. Throws
// Error(kData) naming what does not fit the model, Error(kIo).
void restore_weights(Env* env, const std::string& folder, objective::Objective& objective,
                     const dist::Shards* shares);

// The optimiser's own slices of its moments, from the `files` files of `folder`. Throws as
// StoredMoments.
void restore_moments(Env* env, const std::string& folder, int64_t files, optim::AdamW& optimizer);

}  // namespace keiko::train
