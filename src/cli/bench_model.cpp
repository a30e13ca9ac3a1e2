#include "cli/bench_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/error.h"
#include "base/machine.h"
#include "base/rng.h"
#include "config/tree.h"
#include "model/block_runner.h"
#include "train/compute.h"

namespace keiko::cli {
namespace {

// The recipe's `objective` of every model that can be named here; sizes as published.
struct NamedModel {
  const char *name, *objective;
};
constexpr NamedModel kModels[] = {
    {"videomae-s", "{name: videomae, model: small}"},
    {"videomae-b", "{name: videomae, model: base}"},
    {"videomae-l", "{name: videomae, model: large}"},
    {"videomae-h", "{name: videomae, model: huge}"},
    {"classify-s", "{name: classification, model: small}"},
    {"classify-b", "{name: classification, model: base}"},
    {"classify-l", "{name: classification, model: large}"},
    {"vjepa-l", "{name: vjepa2, model: large}"},
    {"vjepa-h", "{name: vjepa2, model: huge}"},
};
constexpr int64_t kClasses = 400;  // as many as Kinetics-400 has

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const NamedModel& m : kModels) names.emplace_back(m.name);
  return names;
}

}  // namespace

void add_clip_options(CLI::App& command, BenchClips& clips) {
  command.add_option("--model", clips.model, "Which model")
      ->check(CLI::IsMember(model_names()))
      ->capture_default_str();
  const auto count = [&](const char* name, int64_t& value, const char* what) {
    command.add_option(name, value, what)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  count("--batch", clips.batch, "Clips of a step, on each rank");
  count("--frames", clips.frames, "Frames of a clip");
  count("--side", clips.side, "Width and height, pixels");
}

std::unique_ptr<objective::Objective> make_bench_model(const std::string& model, int64_t frames,
                                                       int64_t side, int64_t steps, bool dry_run) {
  const auto found = std::find_if(std::begin(kModels), std::end(kModels),
                                  [&](const NamedModel& m) { return m.name == model; });
  if (found == std::end(kModels)) fail(ErrorKind::kUsage, "--model {} is not known", model);
  objective::ObjectiveChoice choice;
  config::read_options(config::parse_yaml(found->objective, "bench step"), choice);
  objective::ObjectiveContext context;
  context.num_frames = frames;
  context.size = side;
  context.seed = 1;
  context.steps = steps;
  context.dry_run = dry_run;
  for (int64_t i = 0; i < kClasses; ++i) context.class_names.push_back(fmt::format("class_{}", i));
  return choice.options->make(context);
}

objective::MicroBatch random_bench_batch(int64_t clips, int64_t frames, int64_t side) {
  objective::MicroBatch batch;
  batch.video = at::empty({clips, 3, frames, side, side}, at::kByte);
  batch.label = at::empty({clips}, at::kLong);
  Rng rng(1, Stream::kSynth, 0);
  auto* pixels = batch.video.data_ptr<uint8_t>();
  for (int64_t i = 0; i < batch.video.numel(); ++i) pixels[i] = uint8_t(rng.below(256));
  for (int64_t i = 0; i < clips; ++i)
    batch.label.data_ptr<int64_t>()[i] = int64_t(rng.below(kClasses));
  batch.positions.resize(size_t(clips));
  return batch;
}

double StepTime::total() const { return std::accumulate(std::begin(part), std::end(part), 0.0); }

StepTime run_bench_step(objective::Objective& objective, optim::AdamW& adamw,
                        objective::MicroBatch& batch, int64_t step, bool use_autocast,
                        gpu::Accelerator* gpu, train::RecordedPasses* recorded) {
  StepTime time;
  double last = monotonic_s();
  size_t next = 0;
  const auto lap = [&] {
    if (gpu) gpu->synchronize();
    const double now = monotonic_s();
    time.part[next++] = now - last;
    last = now;
  };
  const int64_t clips = batch.video.size(0);
  std::iota(batch.positions.begin(), batch.positions.end(), step * clips);
  batch.step = step;
  batch.batch_first = step * clips;
  batch.batch_last = (step + 1) * clips;
  objective.parameters().zero_grad();
  lap();
  objective::LossSums sums;
  if (recorded) {
    sums = recorded->run(batch);
  } else {
    const train::AutocastGuard autocast(use_autocast, batch.video.device().type());
    sums = objective.loss(batch, model::BlockRunner());
  }
  time.loss = sums.loss.item<double>() / double(clips);
  lap();
  if (!recorded) sums.loss.backward(at::full_like(sums.loss, 1.0 / double(clips)));
  lap();
  (void)optim::gradient_norm(objective.parameters());
  lap();
  adamw.step(1.5e-4, 0.05, step + 1);
  objective.after_step(step + 1);
  lap();
  return time;
}

}  // namespace keiko::cli
