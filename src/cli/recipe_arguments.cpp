#include "cli/recipe_arguments.h"

#include <spdlog/spdlog.h>

#include "base/error.h"
#include "train/checkpoint.h"

namespace keiko::cli {

void RecipeArguments::add_to(CLI::App& command, bool may_be_run) {
  command
      .add_option("recipe", recipe, may_be_run ? "A recipe file, or a run folder" : "A recipe file")
      ->required();
  command.add_option("overrides", overrides,
                     "key=value pairs laid over the recipe, such as batch_size=64 data=train.kix");
}

LoadedRecipe load(const RecipeArguments& arguments) {
  const FileStatus status = default_env()->status(arguments.recipe);
  if (!status.exists) fail(ErrorKind::kUsage, "{}: no such recipe or run folder", arguments.recipe);
  LoadedRecipe loaded;
  if (status.is_folder) {
    const std::string path = arguments.recipe + "/recipe.yaml";
    if (!default_env()->status(path).exists)
      fail(ErrorKind::kUsage, "{}: not a run folder (it has no recipe.yaml)", arguments.recipe);
    loaded.recipe = train::load_recipe(path, arguments.overrides);
    loaded.run_folder = arguments.recipe;
  } else {
    loaded.recipe = train::load_recipe(arguments.recipe, arguments.overrides);
    loaded.run_folder = train::run_folder_of(loaded.recipe, arguments.recipe);
  }
  return loaded;
}

data::Dataset open_dataset(const train::Recipe& r, bool evaluation) {
  data::Dataset dataset(default_env(), evaluation ? r.eval.data : r.data, r.clip, r.augment,
                        uint64_t(r.seed), evaluation ? 1 : r.loader.shuffle_block, r.eval.views);
  dataset.overfit(r.train.overfit);
  return dataset;
}

std::optional<std::string> load_weights_of_run(objective::Objective& objective,
                                               const std::string& run_folder) {
  const auto folder = train::find_checkpoint(default_env(), run_folder + "/checkpoints");
  if (!folder) return std::nullopt;
  const auto loaded = train::load_checkpoint(default_env(), *folder);
  const auto unmatched = objective.load_weights(loaded.weights);
  if (!unmatched.missing.empty())
    fail(ErrorKind::kData, "{}: does not hold this recipe's model: {} is missing", *folder,
         unmatched.missing[0]);
  objective.load_ema(loaded.ema);
  spdlog::info("weights: {}", *folder);
  return folder;
}

}  // namespace keiko::cli
