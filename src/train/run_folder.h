// Where a run lives, and whether a recipe may go on in it.

#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/env.h"
#include "dist/communicator.h"
#include "train/recipe.h"

namespace keiko::train {

struct RunIdentity {
  uint64_t data_hash = 0;
  std::string data_description;
  std::string command_line;
};

// Makes the run folder, or checks that an existing one holds the same computation; writes
// recipe.yaml and appends this start to run.json. Rank 0 only. Throws Error(kUsage) with the
// differing keys (old -> new) when the recipe defines another computation and they are not in
// `allowed`, or when the data changed; Error(kIo) when the folder cannot be written.
void enter_run_folder(Env* env, const std::string& folder, const Recipe& recipe,
                      const RunIdentity& identity, const std::vector<std::string>& allowed,
                      int64_t world_size);

// Checks that all ranks see rank 0's folder. Throws Error(kUsage) "run folder is not shared".
void check_shared(Env* env, const std::string& folder, dist::Communicator& communicator);

}  // namespace keiko::train
