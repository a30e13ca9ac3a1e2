#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "cuda/gpu_decoding.h"
#include "dist/sharding.h"
#include "gpu/device_patches.h"
#include "objective/classification.h"
#include "optim/schedule.h"
#include "report/progress.h"
#include "train/batch_cut.h"
#include "train/marks.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

struct TrainArguments : RecipeArguments {
  std::vector<std::string> allowed;
  bool dry_run = false;
  int64_t overfit = 0;
  std::string command_line, trace;
};

// Files that the recipe's training data needs and that are not there.
std::vector<std::string> absent_data(const train::Recipe& r) {
  std::vector<std::string> absent;
  for (const data::DataSource& source : r.data)
    for (const std::string& path : {source.path, source.labels, source.targets})
      if (!path.empty() && !default_env()->status(path).exists) absent.push_back(path);
  return absent;
}

// The objective with nothing allocated. `dataset` may be null: then as many classes and targets as
// the recipe names, or one.
std::unique_ptr<objective::Objective> declare_objective(const train::Recipe& r,
                                                        const data::Dataset* dataset) {
  objective::ObjectiveContext context;
  context.num_frames = r.clip.num_frames;
  context.size = r.clip.size;
  context.seed = uint64_t(r.seed);
  context.repeats = r.augment.repeats;
  context.dry_run = true;
  context.dtype = r.precision == "float64" ? at::kDouble : at::kFloat;
  if (dataset) {
    context.class_names = dataset->class_names();
    context.targets = train::target_columns(*dataset);
  } else {
    const auto* classification =
        dynamic_cast<const objective::ClassificationOptions*>(r.objective.options.get());
    const int64_t known = classification ? classification->num_classes : 0;
    context.class_names.assign(size_t(std::max<int64_t>(1, known)), "unknown");
    context.targets.assign(size_t(std::max<int64_t>(1, known)), {"unknown"});
  }
  return r.objective.options->make(context);
}

std::string parts_text(const std::vector<objective::PartSize>& sizes, bool trained) {
  std::string text;
  for (const objective::PartSize& part : sizes)
    if (part.is_trained == trained)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", part.name,
                          report::count_text(part.count));
  return text;
}

// What a rank holds: `number` bytes for each weight and gradient, for AdamW's two moments (by
// train.shard), for weights that are not trained, and for the numbers that a micro-batch keeps for
// its backward pass.
std::string memory_text(const train::Recipe& r, objective::Objective& objective) {
  const double number = r.precision == "float64" ? 8 : 4;
  double not_trained = 0;
  for (const objective::PartSize& part : objective.part_sizes())
    if (!part.is_trained) not_trained += number * double(part.count);
  const int64_t world = dist::read_launch_environment().world_size;
  const int64_t sharers = r.train.shard_group > 0 ? r.train.shard_group : world;
  const dist::Held held = dist::numbers_held(objective.parameters(), r.train.shard, sharers);
  const int64_t slice = (r.batch_size + world - 1) / world;
  const int64_t clips = r.micro_batch_size > 0 ? std::min(r.micro_batch_size, slice) : slice;
  const double kept = number * double(clips) * objective.activations_per_clip();
  std::string text = fmt::format(
      "{} a rank, about\n"
      "                {} weights, {} gradients, {} AdamW's moments",
      report::bytes_text(number * (held.values + held.gradients + held.moments) + not_trained +
                         kept),
      report::bytes_text(number * held.values), report::bytes_text(number * held.gradients),
      report::bytes_text(number * held.moments));
  if (not_trained > 0)
    text += fmt::format(", {} weights that are not trained", report::bytes_text(not_trained));
  if (world > 1)
    text += fmt::format(
        "\n                ({} ranks; train.shard = {}{})", world, r.train.shard,
        r.train.shard_group > 0 ? fmt::format(" among {} of them", r.train.shard_group) : "");
  return text + fmt::format(
                    "\n                {} kept for the backward pass of {} clips ({} bytes "
                    "a number; bf16 needs less{})",
                    kept > 0 ? report::bytes_text(kept) : "unknown, not counted: what is", clips,
                    number,
                    r.train.activation_checkpointing
                        ? "; much less with train.activation_checkpointing, not counted"
                        : "");
}

// Throws Error(kUsage) when ranks that share something out make no whole groups.
void check_sharing(const train::Recipe& recipe, int64_t world_size) {
  if (recipe.train.shard != "none" && world_size > 1)
    dist::check_shard_group(recipe.train.shard_group, world_size);
}

// Nothing here allocates a weight, and the data need not be there, so that the plan of a giant
// model can be read anywhere.
int show_plan(const LoadedRecipe& loaded) {
  const train::Recipe& r = loaded.recipe;
  const std::vector<std::string> absent = absent_data(r);
  std::optional<data::Dataset> dataset;
  if (absent.empty()) dataset.emplace(open_dataset(r, false));
  const auto objective = declare_objective(r, dataset ? &*dataset : nullptr);
  const bool on_gpu = train::resolve_device(r) == "cuda";
  const auto threads =
      train::share_threads(r, dist::read_launch_environment(), usable_cores(), on_gpu);
  const double epoch_steps = dataset ? double(dataset->epoch_size()) / double(r.batch_size) : 0;
  const int64_t steps = r.steps >= 0 ? r.steps
                        : dataset    ? int64_t(std::ceil(r.epochs * epoch_steps))
                                     : -1;
  const optim::Schedule schedule =
      r.optimizer.schedule(r.batch_size, std::max<int64_t>(1, steps), epoch_steps);
  const auto sizes = objective->part_sizes();
  int64_t trained = 0;
  for (const objective::PartSize& part : sizes) trained += part.is_trained ? part.count : 0;

  const auto say = [](const char* what, const std::string& text) {
    std::printf("%-15s %s\n", what, text.c_str());
  };
  say("run folder", loaded.run_folder);
  say("data", dataset
                  ? dataset->describe()
                  : fmt::format("not found: {}; steps of epochs unknown", fmt::join(absent, ", ")));
  say("objective", r.objective.name);
  say("parameters",
      fmt::format("{} trained: {}", report::count_text(trained), parts_text(sizes, true)));
  if (const std::string held = parts_text(sizes, false); !held.empty())
    say("", fmt::format("not trained: {}", held));
  using enum objective::Objective::TargetNeed;
  if (!dataset && (objective->needs_label() || objective->target_need() != kNone))
    say("",
        "the head counts the outputs that objective.num_classes names, else one: the data is "
        "not there to ask");
  say("clip",
      fmt::format("{} frames, every {} of {}, {} pixels", r.clip.num_frames, r.clip.sampling_rate,
                  r.clip.fps > 0 ? fmt::format("{:g} a second", r.clip.fps) : "the video's",
                  r.clip.size));
  say("FLOPs a clip", fmt::format("{:.3g} (forward and backward)", objective->flops_per_clip()));
  const std::string batches = fmt::format("of {} clips", report::count_text(r.batch_size));
  if (steps < 0) {
    say("steps", fmt::format("unknown {}, {:g} epochs", batches, r.epochs));
    say("clips to read", "unknown");
  } else {
    say("steps", fmt::format("{} {}{}", report::count_text(steps), batches,
                             dataset ? fmt::format(", {:.2f} epochs", double(steps) / epoch_steps)
                                     : ", epochs unknown"));
    say("clips to read",
        report::count_text(steps * r.batch_size) +
            (r.augment.repeats > 1
                 ? fmt::format(" as {} decoded clips of {} views",
                               report::count_text(steps * r.batch_size / r.augment.repeats),
                               r.augment.repeats)
                 : ""));
  }
  const std::string warmup =
      r.optimizer.warmup_epochs > 0 ? fmt::format("{:g} epochs", r.optimizer.warmup_epochs)
      : r.optimizer.warmup_steps > 0
          ? fmt::format("{} steps", report::count_text(r.optimizer.warmup_steps))
          : "";
  say("learning rate",
      fmt::format("{:.4g} at its peak", schedule.lr) +
          (warmup.empty() ? "" : fmt::format(", from {:.4g} over {}", schedule.warmup_lr, warmup)) +
          (schedule.shape == optim::Shape::kConstant
               ? ", then constant"
               : fmt::format(", {} to {:.4g}", r.optimizer.schedule_shape, schedule.min_lr)));
  say("device", on_gpu ? "a GPU for each rank" : "CPU");
  say("videos", train::resolve_decode(r, on_gpu) == "nvdec" ? "decoded on the GPU (NVDEC)"
                                                            : "decoded on the CPU");
  say("precision", train::resolve_precision(r, on_gpu ? at::kCUDA : at::kCPU));
  say("threads", fmt::format("{} compute, {} decode", threads.compute, threads.decode));
  say("memory", memory_text(r, *objective));
  return 0;
}

// Ends this process at once: from another thread when the main one waits for a rank that never
// answers, or before things are taken down that would wait for it.
[[noreturn]] void end_process(int code, const std::string& message) {
  // The first thread that ends the process does so.
  static std::atomic_flag is_ending;
  while (is_ending.test_and_set()) ::pause();
  // A log on a disk that hangs, or held by a thread that does, must not keep the process.
  std::signal(SIGALRM, SIG_DFL);
  ::alarm(10);
  spdlog::error("keiko train: {}", message);
  spdlog::default_logger()->flush();  // no shutdown: other threads still log
  std::fflush(nullptr);
  std::_Exit(code);
}

// What a rank computes on, and what decodes its videos there; null: on the CPU.
struct RankGpu {
  std::unique_ptr<gpu::Accelerator> accelerator;
  std::unique_ptr<cuda::GpuDecoding> decoding;
};

// The GPU of this rank: that of its local number, or the only one that a launcher lets it see. All
// ranks hear when one has none.
RankGpu take_gpu(const train::Recipe& recipe, const train::TrainContext& context,
                 dist::Communicator& communicator) {
  RankGpu gpu;
  std::string problem;
  try {
    const int index = cuda::device_count() == 1 ? 0 : int(context.launch.local_rank);
    gpu.accelerator = gpu::load_accelerator(index);
    model::set_device_kernels(at::kCUDA, gpu::make_device_patches(*gpu.accelerator));
    if (train::resolve_decode(recipe, true) == "nvdec")
      gpu.decoding = std::make_unique<cuda::GpuDecoding>(context.env, index);
  } catch (const std::exception& e) {
    problem = e.what();
  }
  const std::vector<std::string> problems = communicator.gather_texts(problem);
  for (size_t rank = 0; rank < problems.size(); ++rank)
    if (!problems[rank].empty())
      fail(ErrorKind::kUsage, "rank {} cannot use its GPU: {}", rank, problems[rank]);
  return gpu;
}

// Has the run's videos decoded into slots on the GPU, read in the order of torch's stream.
void decode_on_gpu(train::TrainContext& context, RankGpu& gpu) {
  context.decoded_on = "nvdec";
  context.make_decoder = [&decoding = *gpu.decoding] { return decoding.make_decoder(); };
  context.make_buffer = [&gpu] {
    return gpu.decoding->make_slot([&gpu] { return gpu.accelerator->stream(); },
                                   [&gpu] { gpu.accelerator->release_unused_memory(); });
  };
}

// Which of this rank's clips the GPU decoded in the end. Reasons were logged with the first of
// each.
void log_decoded(const cuda::NvdecTally::Counts& counts) {
  int64_t on_cpu = 0;
  for (const auto& [reason, count] : counts.on_cpu) on_cpu += count;
  spdlog::info(
      "{} clips were decoded on the GPU, {} on the CPU; of {} that the GPU complained of, {} were "
      "bad",
      counts.on_gpu, on_cpu, counts.doubted, counts.found_bad);
}

// Meets the other ranks, trains, and sees to it that all of them hear when one ends.
int train_among_ranks(const train::Recipe& recipe, train::TrainContext& context) {
  const dist::LaunchEnvironment& launch = context.launch;
  train::heed_marks(context.env, context.run_folder, launch);
  // Before torch is asked for anything: it remembers what devices it found.
  const bool on_gpu = train::resolve_device(recipe) == "cuda";
  if (!on_gpu) train::resolve_decode(recipe, false);      // refuses what needs a GPU
  if (!on_gpu && context.trace) train::quiet_profiler();  // before there are threads
  const auto communicator = dist::make_communicator(launch, double(recipe.train.timeout_s));
  RankGpu gpu;
  if (on_gpu) gpu = take_gpu(recipe, context, *communicator);
  std::unique_ptr<dist::Communicator> between_gpus;
  if (gpu.accelerator)
    between_gpus =
        gpu.accelerator->make_communicator(*communicator, double(recipe.train.timeout_s));
  context.accelerator = gpu.accelerator.get();
  const auto recorder = gpu.accelerator ? gpu.accelerator->make_recorder() : nullptr;
  context.recorder = recorder.get();
  if (gpu.decoding) decode_on_gpu(context, gpu);
  context.communicator = between_gpus ? between_gpus.get() : communicator.get();
  dist::ControlOptions options;
  options.silence_s = recipe.train.heartbeat_s;
  options.meeting = communicator->meeting();
  options.end_process = [](const std::string& message) { end_process(1, message); };
  dist::ControlPlane control(dist::connect_control_store(launch, double(recipe.train.timeout_s)),
                             launch, options);
  context.control = &control;
  context.communicator->set_watcher(&control);
  context.on_error = [&](ErrorKind kind, const std::string& message) {
    control.is_ending();
    train::leave_mark(context.env, context.run_folder, launch, kind, message);
    if (launch.world_size == 1) return;
    control.give_up(message);
    end_process(exit_code(kind), message);
  };
  const train::TrainResult result = train::train(recipe, context);
  if (gpu.decoding) log_decoded(gpu.decoding->clips());
  if (result.is_preempted && launch.rank == 0)
    train::leave_mark(context.env, context.run_folder, launch, ErrorKind::kPreempted,
                      fmt::format("saved step {}", result.step));
  control.finish();
  context.communicator->set_watcher(nullptr);
  communicator->barrier();  // rank 0 takes the store along
  return result.is_preempted ? exit_code(ErrorKind::kPreempted) : 0;
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
  c->add_option("--trace", o->trace,
                "Write a profiler's trace of these steps, counted from 0, as steps=10..12: every "
                "operation, and every kernel of a GPU, in RUN/traces/steps-10-12-rankR.json. Open "
                "it at https://ui.perfetto.dev or in chrome://tracing. Traced steps are slower; "
                "the weights stay the same")
      ->type_name("steps=A..B");
  c->add_flag("--dry-run", o->dry_run, "Print what would be trained, and stop");
  c->callback([o, &action] {
    action = [o] {
      if (o->overfit > 0) o->overrides.push_back(fmt::format("train.overfit={}", o->overfit));
      train::TrainContext context;
      if (!o->trace.empty()) context.trace = train::parse_trace(o->trace);
      const LoadedRecipe loaded = load(*o);
      const int64_t group = train::group_of(loaded.recipe);
      if (o->dry_run) {
        train::check_batch(loaded.recipe, group, 1);
        check_sharing(loaded.recipe, dist::read_launch_environment().world_size);
        return show_plan(loaded);
      }
      context.launch = dist::read_launch_environment();
      train::check_batch(loaded.recipe, group, context.launch.world_size);
      check_sharing(loaded.recipe, context.launch.world_size);
      if (context.launch.rank != 0) spdlog::set_level(spdlog::level::err);
      context.make_decoder = [] { return std::make_unique<media::CpuClipDecoder>(default_env()); };
      context.run_folder = loaded.run_folder;
      context.command_line = "keiko train " + o->recipe;
      for (const std::string& s : o->overrides) context.command_line += " " + s;
      context.allowed_changes = o->allowed;
      return train_among_ranks(loaded.recipe, context);
    };
  });
}

}  // namespace keiko::cli
