#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "model/safetensors.h"
#include "report/picture.h"
#include "report/run_page.h"
#include "train/evaluation.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

struct PreviewOptions : RecipeArguments {
  int64_t step = 0, steps = 1, clips = 8;
  std::string out, tensors;
  bool json = false;
};

// Batches of the whole world, as the model gets them at steps [first, first + count).
template <class Visit>
void for_each_batch(const train::Recipe& r, const data::Dataset& dataset, int64_t first,
                    int64_t count, int64_t clips, Visit visit) {
  data::Loader loader(
      default_env(), dataset,
      [&](int64_t step) {
        return step < first + count ? data::Slice{step * r.batch_size, step * r.batch_size + clips}
                                    : data::Slice{};
      },
      first, true, usable_cores(), int(r.loader.prefetch),
      [] { return std::make_unique<media::CpuClipDecoder>(default_env()); });
  for (int64_t i = 0; i < count; ++i) visit(loader.next());
}

void write_tensors(const train::Recipe& r, const data::Dataset& dataset,
                   objective::Objective& objective, const PreviewOptions& o) {
  std::vector<model::NamedTensor> tensors;
  for_each_batch(r, dataset, o.step, o.steps, r.batch_size, [&](data::Batch& batch) {
    const auto micro = train::view_training_batch(batch, r, 0, int64_t(batch.clips.size()));
    const std::string prefix = std::to_string(batch.step) + "/";
    tensors.emplace_back(prefix + "video", micro.video.clone());
    tensors.emplace_back(prefix + "position", at::tensor(micro.positions));
    if (objective.needs_label()) tensors.emplace_back(prefix + "label", micro.label);
    if (micro.target.defined()) tensors.emplace_back(prefix + "target", micro.target);
    for (const auto& [name, tensor] : objective.fields(micro))
      tensors.emplace_back(prefix + name, tensor);
  });
  model::write_safetensors(default_env(), o.tensors, tensors);
  spdlog::info("{}: the batches of steps {} to {}", o.tensors, o.step, o.step + o.steps - 1);
}

// One picture of [rows, 3, T, H, W]: a row of frames for each row.
void write_sheet(const std::string& path, const at::Tensor& clips, int64_t frames_shown) {
  const at::Tensor all = clips.contiguous();
  const int64_t rows = all.size(0), frames = all.size(2), h = all.size(3), w = all.size(4);
  const int64_t shown = std::min(frames, frames_shown);
  const int scale = int(std::max<int64_t>(1, 96 / std::max(w, h)));
  std::vector<report::Picture> pictures;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < shown; ++i) {
      const int64_t t = shown == 1 ? 0 : i * (frames - 1) / (shown - 1);
      const at::Tensor frame = all[row].select(1, t).contiguous();
      pictures.push_back(report::enlarge(
          report::from_planes(frame.data_ptr<uint8_t>(), h * w, int(w), int(h)), scale));
    }
  report::write_png(default_env(), path, report::arrange(pictures, int(shown), 3));
}

// What was drawn for a clip, for programs.
nlohmann::ordered_json clip_as_json(const data::Dataset& dataset, const data::ClipPlan& plan) {
  nlohmann::ordered_json steps = nlohmann::ordered_json::array();
  for (const data::PictureStep& step : plan.augment.steps)
    steps.push_back({{"op", data::name_of(step.op)}, {"argument", step.argument}});
  nlohmann::ordered_json json = {
      {"position", plan.position},
      {"path", dataset.video_of(plan)->file.path},
      {"label", plan.label},
      {"frames", plan.frames},
      {"crop", {plan.crop.x, plan.crop.y, plan.crop.width, plan.crop.height}},
      {"flip", plan.flip},
      {"augment", steps},
      {"erased", nullptr}};
  if (const auto& box = plan.augment.erased)
    json["erased"] = {box->x, box->y, box->width, box->height};
  for (size_t i = 0; i < plan.targets.size(); ++i)  // NaN becomes null
    json["targets"][dataset.target_names()[i]] = plan.targets[i];
  return json;
}

// The same in words, a line a clip.
void say_clip(const data::Dataset& dataset, const data::ClipPlan& plan) {
  const std::string drawn = data::describe(plan.augment);
  std::printf("  position %lld  %s  frames %lld..%lld  crop %.0fx%.0f at %.0f,%.0f%s%s%s\n",
              static_cast<long long>(plan.position), dataset.video_of(plan)->file.path.c_str(),
              static_cast<long long>(plan.frames.front()),
              static_cast<long long>(plan.frames.back()), plan.crop.width, plan.crop.height,
              plan.crop.x, plan.crop.y, plan.flip ? "  mirrored" : "", drawn.empty() ? "" : "  ",
              drawn.c_str());
}

}  // namespace

void add_preview(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("preview",
                               "Rebuild the samples of any training step, as pictures or tensors\n"
                               "With a trained run, masked input and reconstruction are shown too");
  auto o = std::make_shared<PreviewOptions>();
  o->add_to(*c, true);
  c->add_option("--step", o->step, "The step, from 0")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--steps", o->steps, "With --tensors: how many steps from there")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--clips", o->clips, "Clips on a sheet")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  c->add_option("--out", o->out, "Folder for the sheets; default: RUN/previews");
  c->add_option("--tensors", o->tensors,
                "Write NAME.safetensors with the whole batches instead of pictures");
  c->add_flag("--json", o->json, "Print what was drawn for each clip as JSON on stdout");
  c->callback([o, &action] {
    action = [o] {
      const LoadedRecipe loaded = load(*o);
      const train::Recipe& r = loaded.recipe;
      const data::Dataset dataset = open_dataset(r, false);
      const auto objective = train::make_objective(r, dataset);
      if (!o->tensors.empty()) {
        write_tensors(r, dataset, *objective, *o);
        return 0;
      }
      const bool trained = load_weights_of_run(*objective, loaded.run_folder).has_value();
      const std::string folder = o->out.empty() ? loaded.run_folder + "/previews" : o->out;
      default_env()->make_folder(folder);
      for_each_batch(
          r, dataset, o->step, 1, std::min(o->clips, r.batch_size), [&](data::Batch& batch) {
            const auto micro = train::view_training_batch(batch, r, 0, int64_t(batch.clips.size()));
            const std::string clips = fmt::format("{}/step-{:08}-clips.png", folder, o->step);
            write_sheet(clips, micro.video, 16);
            nlohmann::ordered_json sheets = {{"clips", clips}};
            const at::Tensor picture = objective->picture(micro);
            if (picture.size(1) >= 2) {
              const std::string name = trained ? "reconstruction" : "untrained-reconstruction";
              const std::string masked = fmt::format("{}/step-{:08}-{}.png", folder, o->step, name);
              write_sheet(masked, picture.flatten(0, 1), 16);
              sheets[name] = masked;
            }
            if (o->json) {
              nlohmann::ordered_json drawn = nlohmann::ordered_json::array();
              for (const data::ClipPlan& plan : batch.clips)
                drawn.push_back(clip_as_json(dataset, plan));
              const nlohmann::ordered_json all = {
                  {"step", o->step}, {"sheets", sheets}, {"clips", drawn}};
              std::printf("%s\n", json_text(all, 2).c_str());
              return;
            }
            std::printf("%s: one clip a row\n", clips.c_str());
            for (const auto& [name, sheet] : sheets.items())
              if (name != "clips")
                std::printf("%s: %lld rows a clip: %s%s\n", sheet.get<std::string>().c_str(),
                            static_cast<long long>(picture.size(1)),
                            picture.size(1) == 3 ? "input, what the model sees, what it fills in"
                                                 : "input, then what the objective makes of it",
                            trained ? "" : " (untrained: no checkpoint yet)");
            for (const data::ClipPlan& plan : batch.clips) say_clip(dataset, plan);
          });
      if (o->out.empty() && default_env()->status(loaded.run_folder + "/metrics.jsonl").exists)
        report::write_run_page(default_env(), loaded.run_folder);
      return 0;
    };
  });
}

}  // namespace keiko::cli
