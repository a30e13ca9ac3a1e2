// `keiko bench checkpoint`: what saving a model costs a run, and coming back from it, part by part.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/machine.h"
#include "cli/bench.h"
#include "cli/bench_model.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "train/checkpoint.h"
#include "train/compute.h"
#include "train/restore.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

struct CheckpointBench : BenchClips {
  CheckpointBench() { batch = 1; }
  std::string dir = ".", json;
  int64_t rounds = 5, threads = 0;
  double timeout_s = 600;
};

// Seconds that the operating system took for what went through an Env, all threads together.
struct DiskTime {
  double write = 0, fsync = 0;
};

// The real files, with a stop-watch.
class TimedEnv : public Env {
 public:
  DiskTime take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(time_, {});
  }

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<Writing>(this, base_->create(path));
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override {
    return std::make_unique<Writing>(this, base_->append_to(path, length));
  }
  void rename(const std::string& from, const std::string& to) override { base_->rename(from, to); }
  void remove(const std::string& path) override { base_->remove(path); }
  void make_folder(const std::string& path) override { base_->make_folder(path); }
  void sync_folder(const std::string& path) override {
    timed(&DiskTime::fsync, [&] { base_->sync_folder(path); });
  }
  std::unique_ptr<ReadableFile> open(const std::string& path) override { return base_->open(path); }
  FileStatus status(const std::string& path) override { return base_->status(path); }
  std::vector<std::string> list(const std::string& folder) override { return base_->list(folder); }

 private:
  class Writing : public WritableFile {
   public:
    Writing(TimedEnv* env, std::unique_ptr<WritableFile> base)
        : env_(env), base_(std::move(base)) {}
    void append(std::span<const uint8_t> bytes) override {
      env_->timed(&DiskTime::write, [&] { base_->append(bytes); });
    }
    void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
      env_->timed(&DiskTime::write, [&] { base_->overwrite(offset, bytes); });
    }
    void sync() override {
      env_->timed(&DiskTime::fsync, [&] { base_->sync(); });
    }

   private:
    TimedEnv* env_;
    std::unique_ptr<WritableFile> base_;
  };

  template <class Call>
  void timed(double DiskTime::*part, Call call) {
    const double begun = monotonic_s();
    call();
    const std::lock_guard lock(mutex_);
    time_.*part += monotonic_s() - begun;
  }

  Env* base_ = default_env();
  std::mutex mutex_;
  DiskTime time_;
};

// A folder of this bench alone: CheckpointWriter removes what does not count from the one it gets.
class BenchFolder {
 public:
  BenchFolder(Env* env, dist::Communicator& communicator, const std::string& dir)
      : env_(env), is_first_(communicator.rank() == 0) {
    path_ = communicator.broadcast_text(
        fmt::format("{}/keiko-bench-checkpoint-{}-{}", dir, host_name(), int64_t(::getpid())));
    std::string refusal;
    if (is_first_ && env->status(path_).exists)
      refusal = path_ + ": is there already; choose another --dir";
    if (is_first_ && !env->status(dir).is_folder) refusal = dir + ": no such folder; make it first";
    refusal = communicator.broadcast_text(refusal);
    if (!refusal.empty()) {
      is_first_ = false;  // nothing of ours to remove
      fail(ErrorKind::kUsage, "--dir {}", refusal);
    }
    if (is_first_) env->make_folder(path_);
    communicator.barrier();
    if (!env->status(path_).exists)
      fail(ErrorKind::kUsage,
           "--dir {}: rank {} does not see what rank 0 makes there; name a folder "
           "that all machines mount",
           dir, communicator.rank());
  }
  ~BenchFolder() {
    try {
      if (is_first_) remove_tree(env_, path_);
    } catch (const Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
  }
  const std::string& path() const { return path_; }

 private:
  Env* env_;
  bool is_first_;
  std::string path_;
};

// What is timed, in the order in which it happens. Milliseconds, of the slowest rank.
enum Part {
  kStep,
  kCopy,
  kLogs,
  kStall,
  kFiles,
  kWrite,
  kFsync,
  kHash,
  kCommit,
  kRemove,
  kVerify,
  kLoad,
  kParts
};
constexpr const char* kPartNames[] = {"step_ms",   "copy_ms",   "logs_ms",   "stall_ms",
                                      "files_ms",  "write_ms",  "fsync_ms",  "hash_ms",
                                      "commit_ms", "remove_ms", "verify_ms", "load_ms"};
static_assert(std::size(kPartNames) == kParts);

// A model in training, its run's logs, and the writer of its checkpoints.
class Saving {
 public:
  Saving(const CheckpointBench& o, dist::Communicator& communicator, const std::string& folder)
      : communicator_(communicator),
        folder_(folder + "/checkpoints"),
        objective_(make_bench_model(o.model, o.frames, o.side, o.rounds + 2)),
        batch_(random_bench_batch(o.batch, o.frames, o.side)),
        optimizer_(objective_->parameters(), {}),
        writer_(&env_, communicator, folder_, options(), phases_),
        metrics_(&env_, fmt::format("{}/metrics-{}.jsonl", folder, communicator.rank()), 0),
        samples_(&env_, fmt::format("{}/samples-{}.jsonl", folder, communicator.rank()), 0) {}

  // One step, one save, one load. Milliseconds of each part on this rank.
  std::vector<double> round() {
    std::vector<double> ms(kParts);
    last_ = monotonic_s();
    run_bench_step(*objective_, optimizer_, batch_, step_++, false);
    ms[kStep] = lap();
    metrics_.write({{"step", step_}});
    samples_.write({{"step", step_}});
    communicator_.barrier();
    lap();
    train::CheckpointContent content =
        train::copy_content(step_, *objective_, optimizer_, communicator_, nullptr, std::nullopt);
    ms[kCopy] = lap();
    samples_.sync();
    if (communicator_.rank() == 0) metrics_.sync();
    ms[kLogs] = lap();
    content.state = {{"seed", 1}};
    env_.take();
    writer_.save(std::move(content));
    const double starting = lap();
    while (!writer_.is_written()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ms[kFiles] = starting + lap();
    const DiskTime files = env_.take();
    ms[kWrite] = 1e3 * files.write;
    ms[kFsync] = 1e3 * files.fsync;
    ms[kHash] = std::max(0.0, ms[kFiles] - ms[kWrite] - ms[kFsync]);
    communicator_.barrier();
    lap();
    writer_.commit();
    ms[kCommit] = lap();
    ms[kStall] = ms[kCopy] + ms[kLogs] + starting + ms[kCommit];
    writer_.wait_for_removal();
    ms[kRemove] = lap();
    come_back(ms);
    return ms;
  }
  // The newest checkpoint's folder.
  std::string newest() const { return folder_ + "/" + train::checkpoint_name(step_); }
  int64_t parameter_count() const { return objective_->parameters().count(); }

 private:
  static train::CheckpointOptions options() {
    train::CheckpointOptions o;
    o.keep = 1;
    return o;
  }
  // As a run does that starts again: each rank verifies a part, and reads what it keeps.
  void come_back(std::vector<double>& ms) {
    lap();
    if (train::find_checkpoint(&env_, folder_, communicator_) != newest())
      fail(ErrorKind::kInternal, "{}: is not found again", newest());
    ms[kVerify] = lap();
    const uint64_t before = objective_->parameters().hash();
    {
      const c10::NoGradGuard no_grad;
      for (const auto& buffer : objective_->parameters().buffers()) buffer.value.zero_();
    }
    lap();
    train::restore_weights(&env_, newest(), *objective_, nullptr);
    train::restore_moments(&env_, newest(), communicator_.world_size(), optimizer_);
    ms[kLoad] = lap();
    if (objective_->parameters().hash() != before)
      fail(ErrorKind::kInternal, "{}: other weights came back than were saved", newest());
    communicator_.barrier();
  }
  // Milliseconds since the last call.
  double lap() {
    const double now = monotonic_s(), ms = 1e3 * (now - last_);
    last_ = now;
    return ms;
  }

  dist::Communicator& communicator_;
  std::string folder_;
  std::unique_ptr<objective::Objective> objective_;
  objective::MicroBatch batch_;
  optim::AdamW optimizer_;
  TimedEnv env_;
  train::PhaseFile phases_;
  train::CheckpointWriter writer_;
  report::JsonLines metrics_, samples_;
  int64_t step_ = 0;
  double last_ = 0;
};

// What the background's time goes to, and what follows from it.
std::string describe_limit(const ordered_json& j) {
  const double write = j["write_ms"]["median"], fsync = j["fsync_ms"]["median"],
               hash = j["hash_ms"]["median"];
  const double most = std::max({write, fsync, hash}), all = write + fsync + hash;
  const std::string share = fmt::format("{:.0f}% of writing", all > 0 ? 100 * most / all : 0.0);
  if (most == fsync) return "the disk: fsync takes " + share;
  if (most == write) return "write calls (memory copies, or a disk that is behind): " + share;
  return "the processor: hashes and what else this program does take " + share;
}

void print_table(const ordered_json& j) {
  const auto line = [](const std::string& name, const std::string& value) {
    fmt::print("{:<36}{}\n", name, value);
  };
  line("model", fmt::format("{}, {} parameters", j["model"].get<std::string>(),
                            report::count_text(j["parameters"].get<int64_t>())));
  line("a checkpoint", fmt::format("{}, {} of them weights, from {} ranks",
                                   report::bytes_text(j["bytes"].get<double>()),
                                   report::bytes_text(j["weight_bytes"].get<double>()),
                                   j["world_size"].get<int64_t>()));
  const auto ms = [&](const char* text, const char* key) {
    line(text, fmt::format("{:9.1f} ms median, {:.1f} fastest, {:.1f} slowest",
                           j[key]["median"].get<double>(), j[key]["min"].get<double>(),
                           j[key]["max"].get<double>()));
  };
  ms("a step of training", "step_ms");
  ms("it stands still for", "stall_ms");
  ms("  host copy", "copy_ms");
  ms("  logs to the disk", "logs_ms");
  ms("  commit", "commit_ms");
  ms("in the background: files", "files_ms");
  ms("  write", "write_ms");
  ms("  fsync", "fsync_ms");
  ms("  hashes and the rest", "hash_ms");
  ms("  removing an older one", "remove_ms");
  ms("coming back: verify", "verify_ms");
  ms("  load into the model", "load_ms");
  line("stall over step", fmt::format("{:.3f}", j["stall_over_step"].get<double>()));
  line("written at", fmt::format("{:.0f} MB/s", j["files_mb_per_s"].get<double>()));
  line("verified and loaded at", fmt::format("{:.0f} MB/s", j["load_mb_per_s"].get<double>()));
  line("limit", j["limit"].get<std::string>());
}

int bench_checkpoint(const CheckpointBench& o) {
  const dist::LaunchEnvironment launch = dist::read_launch_environment();
  train::Recipe recipe;
  recipe.train.threads =
      o.threads > 0
          ? o.threads
          : std::max<int64_t>(1, usable_cores() / std::max<int64_t>(1, launch.local_world_size));
  train::set_up_compute(recipe, {int(recipe.train.threads), 1});
  const auto communicator = dist::make_communicator(launch, o.timeout_s);
  const BenchFolder folder(default_env(), *communicator, o.dir);
  Saving saving(o, *communicator, folder.path());

  std::vector<std::vector<double>> times(kParts);
  report::Progress progress("bench checkpoint");
  for (int64_t round = 0; round <= o.rounds; ++round) {
    const at::Tensor all = communicator->all_gather(at::tensor(saving.round(), at::kDouble));
    const at::Tensor slowest = all.amax(0);
    // The first one allocates, and has no older checkpoint to remove.
    for (int part = 0; round > 0 && part < kParts; ++part)
      times[size_t(part)].push_back(slowest[part].item<double>());
    if (launch.rank == 0) progress.update(round + 1, o.rounds + 1);
  }
  communicator->barrier();
  if (launch.rank != 0) return 0;
  progress.finish("");

  ordered_json j = {{"model", o.model},
                    {"world_size", communicator->world_size()},
                    {"batch_per_rank", o.batch},
                    {"frames", o.frames},
                    {"side", o.side},
                    {"threads", at::get_num_threads()},
                    {"processor", processor_name()},
                    {"parameters", saving.parameter_count()}};
  int64_t bytes = 0, weight_bytes = 0;
  for (const std::string& name : default_env()->list(saving.newest())) {
    const int64_t size = default_env()->status(saving.newest() + "/" + name).size;
    bytes += size;
    if (name == "model.safetensors" || name == "ema.safetensors") weight_bytes += size;
  }
  j["bytes"] = bytes;
  j["weight_bytes"] = weight_bytes;
  for (int part = 0; part < kParts; ++part) {
    const auto& all = times[size_t(part)];
    j[kPartNames[part]] = {{"min", *std::min_element(all.begin(), all.end())},
                           {"median", median(all)},
                           {"max", *std::max_element(all.begin(), all.end())},
                           {"all", all}};
  }
  const auto med = [&](const char* key) { return j[key]["median"].get<double>(); };
  j["stall_over_step"] = med("stall_ms") / med("step_ms");
  j["files_mb_per_s"] = double(bytes) / 1e3 / med("files_ms");
  j["load_mb_per_s"] = double(bytes) / 1e3 / (med("verify_ms") + med("load_ms"));
  j["limit"] = describe_limit(j);
  if (o.json.empty())
    print_table(j);
  else
    write_figures(j, o.json == "-" ? "" : o.json);
  return 0;
}

}  // namespace

void add_bench_checkpoint(CLI::App& bench, Action& action) {
  auto* c = bench.add_subcommand(
      "checkpoint",
      "What saving a model costs a run, and coming back from it, part by part\n"
      "A run stands still for the host copy and for its logs (stall); files are written and "
      "fsynced\n"
      "while it goes on; the commit makes them count. Each round takes a step, saves and loads. "
      "Files\n"
      "go to a new folder under --dir, which is removed at the end: name the disk that runs use.\n"
      "What is loaded was just written, so it mostly comes from memory, not from the disk.\n"
      "Several ranks share the optimiser's moments out: torchrun --no-python --nproc-per-node 2\n"
      "keiko bench checkpoint. Times are the slowest rank's.");
  auto o = std::make_shared<CheckpointBench>();
  add_clip_options(*c, *o);
  c->add_option("--dir", o->dir, "Folder on the disk that is measured")->capture_default_str();
  c->add_option("--rounds", o->rounds, "Times everything is timed, after a first round that is not")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "Compute threads; 0 is this rank's share of the cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  c->add_option("--timeout", o->timeout_s, "Longest wait for another rank, seconds")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  c->add_option("--json", o->json, "Rank 0 writes the figures to this file as JSON (- is stdout)");
  c->callback([o, &action] { action = [o] { return bench_checkpoint(*o); }; });
}

}  // namespace keiko::cli
