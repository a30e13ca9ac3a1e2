// A tiny run of one or several ranks, for tests of what becomes of its files: real training in
// processes that a test may take the power from.

#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fault_env.h"
#include "base/log.h"
#include "base/temp_folder.h"
#include "data/index.h"
#include "data/synth.h"
#include "dist/ranks_for_tests.h"
#include "media/clip_decoder.h"
#include "report/metrics.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

namespace keiko::train {

// Of "a/checkpoints/step-00000004/COMMIT" and its folder 4; -1 for other paths.
inline int64_t step_in(const std::string& path) {
  const size_t at = path.find("/checkpoints/step-");
  return at == std::string::npos ? -1 : std::stoll(path.substr(at + 18, 8));
}

// What the disk was told, as far as checkpoints go.
struct Saves {
  std::set<int64_t> begun;  // steps of which a file was created
  int64_t committed = -1;   // the newest whose COMMIT is synced, and the names of both
  std::string overlap;      // says where two saves were written at the same time
};

inline Saves read_saves(const FaultDisk& shared) {
  Saves saves;
  int64_t unsynced = -1;
  for (const DiskChange& change : shared.changes()) {
    const int64_t step = step_in(change.path);
    if (step >= 0 && change.kind == DiskChange::kCreate) {
      if (saves.begun.insert(step).second && saves.begun.size() > 1 &&
          *std::prev(saves.begun.end(), 2) > saves.committed)
        saves.overlap = fmt::format("step {} is written before step {} is committed", step,
                                    *std::prev(saves.begun.end(), 2));
      if (change.path.ends_with("/COMMIT")) unsynced = step;
    }
    // Its own folder is synced before the one above it.
    if (change.kind == DiskChange::kSyncFolder && change.path.ends_with("/checkpoints"))
      saves.committed = std::max(saves.committed, unsynced);
  }
  return saves;
}

class TinyRun : public testing::Test {
 protected:
  static constexpr int64_t kSteps = 5;
  static inline Env* const disk = default_env();

  static void SetUpTestSuite() {
    start_log(true);
    // In memory, where there is such a folder: these tests lose by themselves what was not synced,
    // and a real disk would only make them slow.
    if (!std::getenv("TMPDIR") && ::access("/dev/shm", W_OK) == 0)
      ::setenv("TMPDIR", "/dev/shm", 1);
    folder_ = new TempFolder;
    data::SynthOptions o;
    o.out = folder_->path();
    o.train = 16;
    o.test = 0;
    data::write_synth(disk, o, {});
    data::build_catalogue(disk, {{o.out + "/train"}, o.out + "/train.kix", 1, false}, {});
    publish(
        disk, folder_->path() + "/recipe.yaml",
        "seed: 1\ndata: " + o.out +
            "/train.kix\n"
            "clip: {num_frames: 4, sampling_rate: 1, size: 16}\n"
            "objective: {name: videomae, model: custom, width: 16, depth: 1, heads: 2, patch_size: "
            "8,\n"
            "            decoder_width: 8, decoder_depth: 1, decoder_heads: 1, mask_ratio: 0.5}\n"
            "batch_size: 4\nsteps: 5\nprecision: fp32\ntrain: {threads: 1}\nloader: {threads: 1}\n"
            "checkpoint: {every: 2, keep: 2}\nlog: {every: 1, samples: true}\n");
  }
  static void TearDownTestSuite() { delete folder_; }

  using EnvOfRank = std::function<std::unique_ptr<FaultEnv>(int64_t rank)>;

  // One rank in a process of its own. What it says when it fails is in `run`.said-RANK.
  static pid_t start(int64_t rank, int64_t world, int port, const std::string& run,
                     const std::vector<std::string>& overrides, const EnvOfRank& env_of_rank) {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    int code = 0;
    try {
      const auto faulty = env_of_rank ? env_of_rank(rank) : nullptr;
      const Recipe recipe = load_recipe(folder_->path() + "/recipe.yaml", overrides);
      TrainContext context;
      context.launch = {rank, world, rank, world, "127.0.0.1", port, false, 0};
      const auto communicator = dist::make_communicator(context.launch, 20);
      context.env = faulty ? faulty.get() : disk;
      context.communicator = communicator.get();
      context.make_decoder = [] { return std::make_unique<media::CpuClipDecoder>(disk); };
      context.run_folder = run;
      context.recorder = recorder_;
      train(recipe, context);
    } catch (const Error& e) {
      std::fprintf(stderr, "rank %d: %s\n", int(rank), e.what());
      publish(disk, fmt::format("{}.said-{}", run, rank), e.what());
      code = exit_code(e.kind());
    }
    ::_exit(code);
  }

  // Trains on `world` ranks; torch's threads would not survive a fork of this process, so it does
  // not train itself. Returns the ranks' exit codes, 128 and the signal for one that was killed.
  // With `kills_others` the first rank that loses power takes all others with it.
  static std::vector<int> train_ranks(int64_t world, const std::string& run,
                                      const std::vector<std::string>& overrides = {},
                                      const EnvOfRank& env_of_rank = {},
                                      bool kills_others = false) {
    const int port = world > 1 ? dist::free_port() : 0;
    std::vector<pid_t> ranks;
    for (int64_t rank = 0; rank < world; ++rank)
      ranks.push_back(start(rank, world, port, run, overrides, env_of_rank));
    std::vector<int> codes(ranks.size(), -1);
    for (int64_t left = world; left > 0; --left) {
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, 0);
      const auto found = std::find(ranks.begin(), ranks.end(), pid);
      if (found == ranks.end()) {
        ADD_FAILURE() << "waitpid gave " << pid;
        break;
      }
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      codes[size_t(found - ranks.begin())] = code;
      *found = -1;
      if (kills_others && code == FaultEnv::kPowerCutExit)
        for (const pid_t other : ranks)
          if (other > 0) ::kill(other, SIGKILL);
    }
    return codes;
  }

  // What must not depend on whether a run was stopped: weights, optimiser, samples, metrics'
  // figures.
  static std::string essence(const std::string& run, int64_t world, int64_t steps = kSteps) {
    const std::string last = run + "/checkpoints/" + checkpoint_name(steps);
    std::string all = read_text(disk, last + "/model.safetensors");
    for (int64_t rank = 0; rank < world; ++rank)
      all += read_text(disk, fmt::format("{}/optimizer-{}-of-{}.safetensors", last, rank, world)) +
             read_text(disk, fmt::format("{}/samples-{}.jsonl", run, rank));
    for (const auto& line : report::read_json_lines(disk, run + "/metrics.jsonl"))
      if (line["kind"] == "train")
        all += line["step"].dump() + line["loss"].dump() + line["grad_norm"].dump();
    return all;
  }

  static std::vector<int> zeros(int64_t world) { return std::vector<int>(size_t(world), 0); }
  static std::string folder() { return folder_->path(); }
  static inline TempFolder* folder_ = nullptr;
  static inline gpu::Recorder* recorder_ = nullptr;  // of the runs that are started; null: none
};

}  // namespace keiko::train
