#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/machine.h"
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "gpu/device_patches.h"
#include "objective/objective.h"
#include "optim/adamw.h"
#include "report/progress.h"
#include "train/evaluation.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

struct StepBench : BenchClips {
  std::string dtype = "fp32", device = "cpu", json;
  int64_t steps = 6, warmup = 2, threads = 0;
  bool cuda_graph = false;
};

void print_table(const ordered_json& j) {
  using report::bytes_text;
  const double batch = j["batch"].get<double>(), flops = j["flops_per_clip"].get<double>();
  const double med = j["step_s"]["median"].get<double>();
  const auto line = [](const std::string& name, const std::string& value) {
    fmt::print("{:<24}{}\n", name, value);
  };
  line("model", fmt::format("{}, {} parameters", j["model"].get<std::string>(),
                            report::count_text(j["parameters"].get<int64_t>())));
  line("batch", fmt::format("{} clips of {} frames, {} pixels square", batch,
                            j["frames"].get<int64_t>(), j["side"].get<int64_t>()));
  line("computed with", fmt::format("{}, {} threads, torch {}", j["dtype"].get<std::string>(),
                                    j["threads"].get<int>(), j["torch"].get<std::string>()));
  line("a step", fmt::format("{:.3f} s median, {:.3f} s fastest, {:.3f} s slowest of {}", med,
                             j["step_s"]["min"].get<double>(), j["step_s"]["max"].get<double>(),
                             j["step_s"]["all"].size()));
  for (const char* part : kStepParts) {
    const double s = j["parts_s"][part].get<double>();
    line(fmt::format("  {}", part), fmt::format("{:8.2f} ms {:5.1f}%", 1e3 * s, 100 * s / med));
  }
  line("clips a second", fmt::format("{:.3f}", j["clips_per_s"].get<double>()));
  line("a clip", fmt::format("{:.1f} GFLOP, computed at {:.1f} GFLOP/s", flops / 1e9,
                             flops * batch / med / 1e9));
  line("most memory", bytes_text(j["peak_bytes"].get<double>()));
  line("page faults a step", report::count_text(j["page_faults_per_step"].get<int64_t>()));
  line("loss, first and last",
       fmt::format("{:.6f} {:.6f}", j["loss"][0].get<double>(), j["loss"][1].get<double>()));
}

int bench_step(const StepBench& o) {
  if (o.cuda_graph && o.device != "cuda")
    fail(ErrorKind::kUsage,
         "--cuda-graph records what a GPU does, and --device is {}; add --device "
         "cuda",
         o.device);
  if (o.cuda_graph && o.warmup < train::RecordedPasses::kRunsBefore)
    fail(
        ErrorKind::kUsage,
        "--cuda-graph records a step after {} others, which --warmup {} does not leave; make it {} "
        "or more",
        train::RecordedPasses::kRunsBefore, o.warmup, train::RecordedPasses::kRunsBefore);
  std::unique_ptr<gpu::Accelerator> gpu;  // before torch is asked for anything
  if (o.device == "cuda") {
    gpu = gpu::load_accelerator(0);
    model::set_device_kernels(at::kCUDA, gpu::make_device_patches(*gpu));
  }
  const at::Device device = gpu ? gpu->device() : at::Device(at::kCPU);
  train::Recipe recipe;
  recipe.train.threads = o.threads > 0 ? o.threads : usable_cores();
  train::set_up_compute(recipe, {int(recipe.train.threads), 1}, false, device.type());
  const auto objective = make_bench_model(o.model, o.frames, o.side, o.warmup + o.steps + 1);
  objective->move_to(device);
  objective::MicroBatch batch =
      train::to_device(random_bench_batch(o.batch, o.frames, o.side), device);
  optim::OptimizerOptions options;
  options.betas = {0.9, 0.95};
  optim::AdamW adamw(objective->parameters(), options);

  const auto recorder = o.cuda_graph ? gpu->make_recorder() : nullptr;
  std::unique_ptr<train::RecordedPasses> recorded;
  if (recorder)
    recorded = std::make_unique<train::RecordedPasses>(*objective, *recorder, 1.0 / double(o.batch),
                                                       o.dtype == "bf16", false);

  report::Progress progress("bench step");
  std::vector<StepTime> times;
  struct rusage before = {}, after = {};
  for (int64_t step = 0; step <= o.warmup + o.steps; ++step) {
    if (step == o.warmup + 1) {
      ::getrusage(RUSAGE_SELF, &before);
      if (gpu) gpu->reset_peak_memory();
    }
    times.push_back(run_bench_step(*objective, adamw, batch, step, o.dtype == "bf16", gpu.get(),
                                   recorded.get()));
    progress.update(step + 1, o.warmup + o.steps + 1);
  }
  ::getrusage(RUSAGE_SELF, &after);
  progress.finish("");

  const double first_loss = times.front().loss, last_loss = times.back().loss;
  times.erase(times.begin(), times.begin() + o.warmup + 1);
  std::vector<double> all;
  for (const StepTime& t : times) all.push_back(t.total());
  ordered_json j = {{"model", o.model},
                    {"batch", o.batch},
                    {"frames", o.frames},
                    {"side", o.side},
                    {"device", gpu ? gpu->name() : "cpu"},
                    {"dtype", o.dtype},
                    {"compile", false},
                    {"cuda_graph", o.cuda_graph},
                    {"replayed_steps", recorded ? recorded->replays() : 0},
                    {"threads", at::get_num_threads()},
                    {"torch", TORCH_VERSION},
                    {"processor", processor_name()},
                    {"parameters", objective->parameters().count()},
                    {"flops_per_clip", objective->flops_per_clip()}};
  j["step_s"] = {{"min", *std::min_element(all.begin(), all.end())},
                 {"median", median(all)},
                 {"max", *std::max_element(all.begin(), all.end())},
                 {"all", all}};
  for (size_t part = 0; part < kStepPartCount; ++part) {
    std::vector<double> seconds;
    for (const StepTime& t : times) seconds.push_back(t.part[part]);
    j["parts_s"][kStepParts[part]] = median(seconds);
  }
  j["clips_per_s"] = double(o.batch) / median(all);
  j["peak_bytes"] = gpu ? gpu->memory().peak_allocated : int64_t(after.ru_maxrss) * 1024;
  j["page_faults_per_step"] = (after.ru_minflt - before.ru_minflt) / o.steps;
  j["loss"] = {first_loss, last_loss};
  if (o.json.empty())
    print_table(j);
  else
    write_figures(j, o.json == "-" ? "" : o.json);
  return 0;
}

}  // namespace

void add_bench_step(CLI::App& bench, Action& action) {
  auto* c = bench.add_subcommand(
      "step", "Seconds of a training step of a published model on random clips, part by part");
  auto o = std::make_shared<StepBench>();
  add_clip_options(*c, *o);
  c->add_option("--steps", o->steps, "Steps that are timed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--warmup", o->warmup, "Steps before them, after the first one")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "Compute threads; 0 is one for each core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  c->add_option("--dtype", o->dtype, "fp32, or bf16: autocast, weights stay fp32")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  c->add_option("--device", o->device, "cpu, or cuda: the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  c->add_flag("--cuda-graph", o->cuda_graph,
              "Record forward and backward once and launch them as one, as train.cuda_graph does; "
              "their time is said as forward's. Needs --warmup 3 or more");
  c->add_option("--json", o->json, "Write the figures to this file as JSON (- is stdout)");
  c->callback([o, &action] { action = [o] { return bench_step(*o); }; });
}

}  // namespace keiko::cli
