#include "train/evaluation.h"

#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "objective/classification.h"
#include "report/picture.h"
#include "report/progress.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

// Throws Error(kUsage) when the run learned other classes or targets than the data has: scores
// would compare numbers that mean different things.
void check_outputs(const std::string& checkpoint, const char* what,
                   const std::vector<std::string>& names) {
  const auto config = nlohmann::json::parse(read_text(default_env(), checkpoint + "/config.json"));
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string learned = config.at("id2label").value(std::to_string(i), "(none)");
    if (learned != names[i])
      fail(ErrorKind::kUsage, "{} {} is {} in {}, but {} in the evaluation data", what, i, learned,
           checkpoint, names[i]);
  }
}

// Of each class's items the share that was taken for each class, as a picture.
void draw_confusion(const std::string& path, const at::Tensor& rows, int64_t named) {
  const at::Tensor label = rows.select(1, 3).to(at::kLong), said = rows.select(1, 4).to(at::kLong);
  // A head may have more classes than the data.
  const int64_t classes = std::max(named, said.max().item<int64_t>() + 1);
  const at::Tensor counts =
      at::bincount(label * classes + said, {}, classes * classes).view({classes, classes});
  const at::Tensor shares =
      (counts.to(at::kDouble) / counts.sum(1, true).clamp_min(1).to(at::kDouble)).contiguous();
  const double* values = shares.const_data_ptr<double>();
  const int cell = int(std::max<int64_t>(2, 480 / classes));
  report::write_png(default_env(), path,
                    report::heat_map({values, values + shares.numel()}, int(classes), cell));
}

// Top-1 of a k-nearest-neighbour vote on the encoder's features, train items against test items.
nlohmann::ordered_json knn(objective::Objective& objective, const data::Dataset& known,
                           const data::Dataset& asked, const train::EvalOptions& options,
                           int decode_threads, dist::Communicator& communicator, int64_t k) {
  if (known.class_names() != asked.class_names())
    fail(ErrorKind::kUsage,
         "--knn: data {} and eval.data {} have other classes; index them with "
         "the same ones",
         known.describe(), asked.describe());
  const auto collect = [&](const data::Dataset& dataset, const char* what) {
    report::Progress progress(what);
    train::EvalOptions which = options;
    // The first items of a catalogue are those of its first classes: the known ones are all taken.
    if (&dataset == &known) which.max_items = 0;
    auto features = train::collect_features(
        default_env(), objective, dataset, which, decode_threads, communicator,
        [] { return std::make_unique<media::CpuClipDecoder>(default_env()); },
        [&](int64_t done, int64_t total) { progress.update(done, total); });
    progress.finish("");
    if (features.labels.lt(0).any().item<bool>())
      fail(ErrorKind::kUsage, "{}: an item has no label, which --knn needs", dataset.describe());
    return features;
  };
  const int64_t classes = int64_t(known.class_names().size());
  const train::Features from = collect(known, "features of the training items");
  const train::Features to = collect(asked, "features of the evaluation items");
  const at::Tensor votes = train::knn_scores(from, to.features, k, classes);
  const int64_t hits = votes.argmax(1).eq(to.labels).sum().item<int64_t>();
  const auto interval = objective::wilson_interval(hits, to.labels.size(0));
  return {{"k", k},
          {"top1", double(hits) / double(to.labels.size(0))},
          {"top1_low", interval.low},
          {"top1_high", interval.high}};
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto* c =
      app.add_subcommand("eval",
                         "Evaluate a run's newest weights on held-out data, beside its controls\n"
                         "Data: the recipe's eval.data, or eval.data=NAME.kix");
  struct Options : RecipeArguments {
    bool json = false, random_init = false;
    int64_t knn = 0;
    std::string confusion;
  };
  auto o = std::make_shared<Options>();
  o->add_to(*c, true);
  c->add_flag("--random-init", o->random_init,
              "Evaluate fresh random weights instead, to compare with");
  c->add_option(
       "--knn", o->knn,
       "Also classify by the K nearest training items in feature space, and the same with a "
       "random-init encoder: 20 is usual")
      ->check(CLI::PositiveNumber);
  c->add_option("--confusion", o->confusion,
                "Draw which class was taken for which (rows: true class) into this PNG");
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
      std::string weights = "random init";
      if (!o->random_init) {
        const auto checkpoint = load_weights_of_run(*objective, loaded.run_folder);
        if (!checkpoint)
          fail(ErrorKind::kUsage,
               "{}: no committed checkpoint to evaluate; train first, or use --random-init",
               loaded.run_folder);
        weights = *checkpoint;
        if (objective->needs_label()) check_outputs(*checkpoint, "class", dataset.class_names());
        if (objective->target_need() != objective::Objective::TargetNeed::kNone)
          check_outputs(*checkpoint, "target", dataset.target_names());
      }
      if (!o->confusion.empty() &&
          objective->evaluation_columns() != objective::classification_columns())
        fail(ErrorKind::kUsage, "--confusion: objective {} does not classify with one head",
             r.objective.name);
      const auto launch = dist::read_launch_environment();
      const auto communicator = dist::make_communicator(launch, double(r.train.timeout_s));
      const auto threads = train::share_threads(r, launch, usable_cores());
      train::set_up_compute(r, threads);
      const train::AutocastGuard autocast(train::resolve_precision(r) == "bf16");
      report::Progress progress("eval");
      const at::Tensor rows = train::evaluate_rows(
          default_env(), *objective, dataset, r.eval, threads.decode, *communicator,
          [] { return std::make_unique<media::CpuClipDecoder>(default_env()); },
          [&](int64_t done, int64_t total) { progress.update(done, total); });
      progress.finish("");
      nlohmann::ordered_json out = {
          {"run", o->random_init ? "random init" : loaded.run_folder},
          {"checkpoint", weights},
          {"data", dataset.describe()},
          {"views", fmt::format("{} x {}", r.eval.views.temporal, r.eval.views.spatial)}};
      const auto summary = objective->summarize(rows);
      for (const auto& [key, value] : summary.items()) out[key] = value;
      if (o->knn > 0) {
        const data::Dataset known = open_dataset(r, false);
        const auto run_knn = [&](objective::Objective& encoder) {
          return knn(encoder, known, dataset, r.eval, threads.decode, *communicator, o->knn);
        };
        out["knn"] = run_knn(*objective);
        if (!o->random_init) out["knn_random_init"] = run_knn(*train::make_objective(r, dataset));
      }
      if (launch.rank != 0) return 0;
      if (!o->confusion.empty()) {
        draw_confusion(o->confusion, rows, int64_t(dataset.class_names().size()));
      }
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
