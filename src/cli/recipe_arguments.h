// RECIPE or RUN, and key=value overrides, as train, eval, preview and bench take them.

#pragma once
#include <CLI/CLI.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "dist/launch.h"
#include "objective/objective.h"
#include "train/recipe.h"

namespace keiko::cli {

struct RecipeArguments {
  std::string recipe;                  // recipe file or run folder
  std::vector<std::string> overrides;  // key=value

  void add_to(CLI::App& command, bool may_be_run);
};

struct LoadedRecipe {
  train::Recipe recipe;
  std::string run_folder;
};

// Reads the recipe, or a run folder's recipe.yaml. Throws Error(kUsage).
LoadedRecipe load(const RecipeArguments& arguments);

// The training data, or eval.data when `evaluation`. Throws Error(kUsage).
data::Dataset open_dataset(const train::Recipe& recipe, bool evaluation);

// Loads the newest checkpoint of `run_folder` into `objective` and returns its folder; nothing when
// there is none.
std::optional<std::string> load_weights_of_run(objective::Objective& objective,
                                               const std::string& run_folder);

}  // namespace keiko::cli
