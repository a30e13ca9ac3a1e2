// `keiko bench reduce`: what summing gradients over ranks costs, and how much of it hides behind
// backward.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>

#include "base/error.h"
#include "base/machine.h"
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "dist/gradient_reducer.h"
#include "report/progress.h"
#include "train/compute.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

struct ReduceBench : BenchClips {
  ReduceBench() { batch = 2; }
  std::string wire = "fp32", json;
  int64_t steps = 5, warmup = 1, threads = 0;
  double bucket_mb = dist::ReduceOptions().bucket_mb;
  std::vector<double> compute_sleep;  // forward, backward; empty: computes
  double timeout_s = 600;
};

// The four things that are timed, in turns.
enum Way { kWithout, kAlone, kWith, kAfter, kWays };
constexpr const char* kWayNames[] = {"without_s", "alone_s", "with_s", "after_s"};

void sleep_until(double until_s) {
  // monotonic_s() is CLOCK_MONOTONIC in seconds.
  const double left = until_s - monotonic_s();
  if (left <= 0) return;
  timespec t{time_t(left), long((left - double(time_t(left))) * 1e9)};
  ::nanosleep(&t, nullptr);
}

// One rank's training step without its optimiser: computed, or slept through.
class Step {
 public:
  Step(const ReduceBench& o, dist::Communicator& communicator)
      : options_(o),
        objective_(make_bench_model(o.model, o.frames, o.side, 1000, false)),
        batch_(random_bench_batch(o.compute_sleep.empty() ? o.batch : 1, o.frames, o.side)) {
    dist::ReduceOptions reduce;
    reduce.wire = o.wire;
    reduce.bucket_mb = o.bucket_mb;
    reducer_ =
        std::make_unique<dist::GradientReducer>(communicator, objective_->parameters(), reduce);
    std::iota(batch_.positions.begin(), batch_.positions.end(),
              communicator.rank() * int64_t(batch_.positions.size()));
    batch_.step = 0;
    batch_.batch_first = 0;
    batch_.batch_last = communicator.world_size() * int64_t(batch_.positions.size());
  }

  // Outside of what is timed: reduction alone has no gradients to clear.
  void prepare() { objective_->parameters().zero_grad(); }
  void run(Way way) {
    if (way != kAlone) {
      if (options_.compute_sleep.empty())
        compute(way);
      else
        sleep(way);
    }
    if (way != kWithout) reducer_->reduce();
  }

  const dist::GradientReducer& reducer() const { return *reducer_; }
  int64_t parameter_count() { return objective_->parameters().count(); }

 private:
  void compute(Way way) {
    const auto sums = objective_->loss(batch_, model::BlockRunner());
    if (way == kWith) reducer_->arm();
    sums.loss.backward();
  }
  // Backward's time is shared out over the buckets by their sizes.
  void sleep(Way way) {
    double at = monotonic_s() + options_.compute_sleep[0];
    sleep_until(at);
    const auto& buckets = reducer_->buckets();
    double all = 0;
    for (const dist::Bucket& bucket : buckets) all += double(bucket.bytes);
    for (const dist::Bucket& bucket : buckets) {
      at += options_.compute_sleep[1] * double(bucket.bytes) / all;
      sleep_until(at);
      if (way == kWith) reducer_->start_next();
    }
  }

  const ReduceBench& options_;
  std::unique_ptr<objective::Objective> objective_;
  objective::MicroBatch batch_;
  std::unique_ptr<dist::GradientReducer> reducer_;
};

void print_table(const ordered_json& j) {
  const auto line = [](const std::string& name, const std::string& value) {
    fmt::print("{:<36}{}\n", name, value);
  };
  line("model", fmt::format("{}, {} parameters, {} on the wire as {} buckets, {}",
                            j["model"].get<std::string>(),
                            report::count_text(j["parameters"].get<int64_t>()),
                            report::bytes_text(j["bytes"].get<double>()), j["buckets"].size(),
                            j["wire"].get<std::string>()));
  line("ranks", std::to_string(j["world_size"].get<int64_t>()));
  const auto seconds = [&](const char* text, const char* key) {
    const auto& spread = j["spread"][key];
    line(text, fmt::format("{:8.1f} ms median, {:.1f} fastest, {:.1f} slowest",
                           1e3 * j[key].get<double>(), 1e3 * spread["min"].get<double>(),
                           1e3 * spread["max"].get<double>()));
  };
  seconds("a step without reduction", "without_s");
  if (!j.contains("hidden")) return;
  seconds("reduction alone", "alone_s");
  seconds("a step, reduced during backward", "with_s");
  seconds("a step, reduced after backward", "after_s");
  line("hidden", fmt::format("{:.1f}%", 100 * j["hidden"].get<double>()));
}

int bench_reduce(const ReduceBench& o) {
  const dist::LaunchEnvironment launch = dist::read_launch_environment();
  train::Recipe recipe;
  recipe.train.threads =
      o.threads > 0
          ? o.threads
          : std::max<int64_t>(1, usable_cores() / std::max<int64_t>(1, launch.local_world_size));
  train::set_up_compute(recipe, {int(recipe.train.threads), 1});
  const auto communicator = dist::make_communicator(launch, o.timeout_s);
  Step step(o, *communicator);
  const bool is_alone = communicator->world_size() == 1;

  // Every way once a round, the order turning: what slows the machine for a while slows all.
  std::vector<std::vector<double>> times(kWays);
  report::Progress progress("bench reduce");
  for (int64_t round = 0; round < o.warmup + 1 + o.steps; ++round) {
    for (int64_t turn = 0; turn < kWays; ++turn) {
      const Way way = Way((round + turn) % kWays);
      step.prepare();
      communicator->barrier();
      const double begun = monotonic_s();
      step.run(way);
      // A step is as long as the slowest rank's.
      const at::Tensor all =
          communicator->all_gather(at::tensor(monotonic_s() - begun, at::kDouble));
      if (round > o.warmup) times[way].push_back(all.max().item<double>());
    }
    if (launch.rank == 0) progress.update(round + 1, o.warmup + 1 + o.steps);
  }
  if (launch.rank != 0) return 0;
  progress.finish("");

  ordered_json j = {{"model", o.model},
                    {"world_size", communicator->world_size()},
                    {"batch_per_rank", o.batch},
                    {"frames", o.frames},
                    {"side", o.side},
                    {"threads", at::get_num_threads()},
                    {"processor", processor_name()},
                    {"wire", o.wire},
                    {"parameters", step.parameter_count()}};
  if (!o.compute_sleep.empty()) j["compute_sleep_s"] = o.compute_sleep;
  const int64_t share = o.wire == "bf16" ? 2 : 1;
  int64_t bytes = 0;
  for (const dist::Bucket& bucket : step.reducer().buckets()) {
    j["buckets"].push_back(bucket.bytes / share);
    bytes += bucket.bytes / share;
  }
  j["bytes"] = bytes;
  for (int way = 0; way < kWays; ++way) {
    j[kWayNames[way]] = median(times[size_t(way)]);
    j["spread"][kWayNames[way]] = {
        {"min", *std::min_element(times[size_t(way)].begin(), times[size_t(way)].end())},
        {"max", *std::max_element(times[size_t(way)].begin(), times[size_t(way)].end())},
        {"all", times[size_t(way)]}};
  }
  if (!is_alone) {
    const double alone = j["alone_s"], with = j["with_s"], without = j["without_s"];
    j["hidden"] = 1 - (with - without) / alone;
    j["started_early"] = step.reducer().started_early();
  }
  if (o.json.empty())
    print_table(j);
  else
    write_figures(j, o.json == "-" ? "" : o.json);
  return 0;
}

}  // namespace

void add_bench_reduce(CLI::App& bench, Action& action) {
  auto* c = bench.add_subcommand(
      "reduce",
      "Seconds of summing gradients over ranks, and how much of it hides behind backward\n"
      "Start it on every rank: torchrun --no-python --nproc-per-node 2 keiko bench reduce\n"
      "hidden = 1 - (step with reduction - step without) / reduction alone, of medians. Ranks "
      "that\n"
      "share cores hide little: the reduction's own work takes time from computing.");
  auto o = std::make_shared<ReduceBench>();
  add_clip_options(*c, *o);
  c->add_option("--steps", o->steps, "Times each way is timed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--warmup", o->warmup, "Rounds before them, after the first one")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "Compute threads; 0 is this rank's share of the cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  c->add_option("--wire", o->wire, "What travels: fp32, or gradients rounded to bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  c->add_option("--bucket-mb", o->bucket_mb, "Smallest bucket, MiB of gradients")
      ->check(CLI::Range(0.0, 4096.0))
      ->capture_default_str();
  c->add_option("--compute-sleep", o->compute_sleep,
                "Sleep so many seconds instead of computing forward and backward")
      ->delimiter(',')
      ->expected(2)
      ->check(CLI::NonNegativeNumber)
      ->type_name("FORWARD,BACKWARD");
  c->add_option("--timeout", o->timeout_s, "Longest wait for another rank, seconds")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  c->add_option("--json", o->json, "Rank 0 writes the figures to this file as JSON (- is stdout)");
  c->callback([o, &action] { action = [o] { return bench_reduce(*o); }; });
}

}  // namespace keiko::cli
