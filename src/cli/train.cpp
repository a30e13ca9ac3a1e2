#include "train/batch_cut.h"
#include "train/trainer.h"

#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

struct TrainArguments : RecipeArguments {
  std::vector<std::string> allowed;
  bool dry_run = false;
  int64_t overfit = 0;
  std::string command_line;
};

int show_plan(const LoadedRecipe& loaded) {
  const train::Recipe& r = loaded.recipe;
  const data::Dataset dataset = open_dataset(r, false);
  const auto objective = train::make_objective(r, dataset);
  const auto threads = train::share_threads(r, dist::read_launch_environment(), usable_cores());
  const double epoch_steps = double(dataset.epoch_size()) / double(r.batch_size);
  const int64_t steps = r.steps >= 0 ? r.steps : int64_t(std::ceil(r.epochs * epoch_steps));
  const int64_t parameters = objective->parameters().count();
  std::printf(
      "run folder      %s\ndata            %s\nobjective       %s, %s parameters trained\n"
      "steps           %s of %lld clips, %.2f epochs\nclip            %lld frames, every %lld of "
      "%s, "
      "%lld pixels\n"
      "FLOPs a clip    %.3g (forward and backward)\nprecision       %s\n"
      "threads         %d compute, %d decode\nmemory          %s for weights, gradients and "
      "AdamW's moments\n",
      loaded.run_folder.c_str(), dataset.describe().c_str(), r.objective.name.c_str(),
      report::count_text(parameters).c_str(), report::count_text(steps).c_str(),
      static_cast<long long>(r.batch_size), double(steps) / epoch_steps,
      static_cast<long long>(r.clip.num_frames), static_cast<long long>(r.clip.sampling_rate),
      r.clip.fps > 0 ? fmt::format("{:g} a second", r.clip.fps).c_str() : "the video's",
      static_cast<long long>(r.clip.size), objective->flops_per_clip(),
      train::resolve_precision(r).c_str(), threads.compute, threads.decode,
      report::bytes_text(16.0 * double(parameters)).c_str());
  return 0;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "train",
      "Train a recipe; on an existing run folder, go on where it stopped\n"
      "Several ranks: torchrun --no-python --nproc-per-node 2 keiko train RECIPE ...");
  auto o = std::make_shared<TrainArguments>();
  o->add_to(*c, true);
  c->add_option("--allow-change", o->allowed,
                "Go on although this recipe key (or `data`) differs from the run's")
      ->type_name("KEY");
  c->add_option(
       "--overfit", o->overfit,
       "Train on the first N samples alone, over and over: a model that cannot learn these "
       "by heart has a bug (short for train.overfit=N)")
      ->check(CLI::PositiveNumber);
  c->add_flag("--dry-run", o->dry_run, "Print what would be trained, and stop");
  c->callback([o, &action] {
    action = [o] {
      if (o->overfit > 0) o->overrides.push_back(fmt::format("train.overfit={}", o->overfit));
      const LoadedRecipe loaded = load(*o);
      const int64_t group = train::group_of(loaded.recipe);
      if (o->dry_run) {
        train::check_batch(loaded.recipe, group, 1);
        return show_plan(loaded);
      }
      train::TrainContext context;
      context.launch = dist::read_launch_environment();
      train::check_batch(loaded.recipe, group, context.launch.world_size);
      if (context.launch.rank != 0) spdlog::set_level(spdlog::level::err);
      const auto communicator =
          dist::make_communicator(context.launch, double(loaded.recipe.train.timeout_s));
      context.communicator = communicator.get();
      context.make_decoder = [] { return std::make_unique<media::CpuClipDecoder>(default_env()); };
      context.run_folder = loaded.run_folder;
      context.command_line = "keiko train " + o->recipe;
      for (const std::string& s : o->overrides) context.command_line += " " + s;
      context.allowed_changes = o->allowed;
      const train::TrainResult result = train::train(loaded.recipe, context);
      return result.is_preempted ? exit_code(ErrorKind::kPreempted) : 0;
    };
  });
}

}  // namespace keiko::cli
