#include "train/evaluation.h"

#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "report/progress.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

// Throws Error(kUsage) when the run learned other classes than the data has: scores would compare
// numbers that mean different things.
void check_classes(const std::string& checkpoint, const std::vector<std::string>& names) {
  const auto config = nlohmann::json::parse(read_text(default_env(), checkpoint + "/config.json"));
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string learned = config.at("id2label").value(std::to_string(i), "(none)");
    if (learned != names[i])
      fail(ErrorKind::kUsage, "class {} is {} in {}, but {} in the evaluation data", i, learned,
           checkpoint, names[i]);
  }
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto* c =
      app.add_subcommand("eval",
                         "Evaluate a run's newest weights on held-out data, beside its controls\n"
                         "Data: the recipe's eval.data, or eval.data=NAME.kix");
  struct Options : RecipeArguments {
    bool json = false, random_init = false;
  };
  auto o = std::make_shared<Options>();
  o->add_to(*c, true);
  c->add_flag("--random-init", o->random_init,
              "Evaluate fresh random weights instead, to compare with");
  c->add_flag("--json", o->json, "Print JSON on stdout");
  c->callback([o, &action] {
    action = [o] {
      const LoadedRecipe loaded = load(*o);
      const train::Recipe& r = loaded.recipe;
      if (r.eval.data.empty())
        fail(ErrorKind::kUsage,
             "the recipe has no eval.data; give a catalogue, such as eval.data=test.kix");
      const data::Dataset dataset = open_dataset(r, true);
      const auto objective = train::make_objective(r, dataset);
      if (!o->random_init) {
        const auto checkpoint = load_weights_of_run(*objective, loaded.run_folder);
        if (!checkpoint)
          fail(ErrorKind::kUsage,
               "{}: no committed checkpoint to evaluate; train first, or use --random-init",
               loaded.run_folder);
        if (objective->needs_label()) check_classes(*checkpoint, dataset.class_names());
      }
      const auto launch = dist::read_launch_environment();
      const auto communicator = dist::make_communicator(launch, double(r.train.timeout_s));
      const auto threads = train::share_threads(r, launch, usable_cores());
      train::set_up_compute(r, threads);
      const train::AutocastGuard autocast(train::resolve_precision(r) == "bf16");
      report::Progress progress("eval");
      const auto summary = train::evaluate(
          default_env(), *objective, dataset, r.eval, threads.decode, *communicator,
          [] { return std::make_unique<media::CpuClipDecoder>(default_env()); },
          [&](int64_t done, int64_t total) { progress.update(done, total); });
      progress.finish("");
      if (launch.rank != 0) return 0;
      nlohmann::ordered_json out = {{"run", o->random_init ? "random init" : loaded.run_folder},
                                    {"data", dataset.describe()}};
      for (const auto& [key, value] : summary.items()) out[key] = value;
      if (o->json) {
        std::printf("%s\n", json_text(out, 2).c_str());
        return 0;
      }
      for (const auto& [key, value] : out.items())
        std::printf("%-22s %s\n", key.c_str(),
                    value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
      return 0;
    };
  });
}

}  // namespace keiko::cli
