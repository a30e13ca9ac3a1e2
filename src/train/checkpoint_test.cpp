// Checkpoints and resume under power cuts, full disks and damage, with a real (tiny) training run.

#include "train/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fault_env.h"
#include "base/log.h"
#include "base/temp_folder.h"
#include "data/index.h"
#include "data/synth.h"
#include "media/clip_decoder.h"
#include "report/metrics.h"
#include "train/trainer.h"

namespace keiko::train {
namespace {

Env* const disk = default_env();

class CheckpointRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    start_log(true);
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

  // Trains in a child process, so that a stop takes only that with it. Returns its exit code.
  static int train_in_child(Env* env, const std::string& run, const std::string& extra = "") {
    const pid_t pid = ::fork();
    if (pid == 0) {
      int code = 0;
      try {
        std::vector<std::string> overrides;
        if (!extra.empty()) overrides.push_back(extra);
        const Recipe recipe = load_recipe(folder_->path() + "/recipe.yaml", overrides);
        const auto communicator = dist::make_communicator({}, 10);
        TrainContext context;
        context.env = env;
        context.communicator = communicator.get();
        context.make_decoder = [] { return std::make_unique<media::CpuClipDecoder>(disk); };
        context.run_folder = run;
        train(recipe, context);
      } catch (const Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        code = exit_code(e.kind());
      }
      ::_exit(code);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  // What must not depend on whether a run was stopped: weights, optimiser, samples, metrics'
  // figures.
  static std::string essence(const std::string& run) {
    const std::string last = run + "/checkpoints/" + checkpoint_name(5);
    std::string all = read_text(disk, last + "/model.safetensors") +
                      read_text(disk, last + "/optimizer-0-of-1.safetensors") +
                      read_text(disk, run + "/samples-0.jsonl");
    for (const auto& line : report::read_json_lines(disk, run + "/metrics.jsonl"))
      all += line["step"].dump() + line["loss"].dump() + line["grad_norm"].dump();
    return all;
  }
  static std::string folder() { return folder_->path(); }
  static TempFolder* folder_;
};
TempFolder* CheckpointRun::folder_ = nullptr;

TEST_F(CheckpointRun, APowerCutAtEveryDiskOperationResumesBitExactly) {
  const TempFolder reference;
  // Counted in a child, which reports through a file: torch's threads do not survive a fork.
  int64_t operations = 0;
  {
    const pid_t pid = ::fork();
    if (pid == 0) {
      FaultEnv counting(disk);
      const Recipe recipe = load_recipe(folder() + "/recipe.yaml", {});
      const auto communicator = dist::make_communicator({}, 10);
      TrainContext context;
      context.env = &counting;
      context.communicator = communicator.get();
      context.make_decoder = [] { return std::make_unique<media::CpuClipDecoder>(disk); };
      context.run_folder = reference.path() + "/run";
      train(recipe, context);
      publish(disk, reference.path() + "/operations", std::to_string(counting.operations()));
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    ASSERT_EQ(status, 0);
    operations = std::stoll(read_text(disk, reference.path() + "/operations"));
  }
  const std::string wanted = essence(reference.path() + "/run");
  ASSERT_GT(operations, 60);
  int stopped = 0;
  for (int64_t stop = 1; stop <= operations; ++stop) {
    const TempFolder scratch;
    const std::string run = scratch.path() + "/run";
    FaultEnv env(disk);
    env.stop_at(stop);
    const int code = train_in_child(&env, run);
    // The background save makes the order of operations vary a little: near the end, a run may
    // finish.
    ASSERT_TRUE(code == FaultEnv::kPowerCutExit || code == 0)
        << "operation " << stop << ": " << code;
    stopped += code != 0;
    ASSERT_EQ(train_in_child(disk, run), 0) << "resume after operation " << stop;
    ASSERT_EQ(essence(run), wanted) << "stopped before operation " << stop;
  }
  EXPECT_GT(stopped, operations - 5);
}

TEST_F(CheckpointRun, AFullDiskEndsTheRunByNameAndLosesNoCommittedStep) {
  const TempFolder reference;
  ASSERT_EQ(train_in_child(disk, reference.path() + "/run"), 0);
  const std::string wanted = essence(reference.path() + "/run");
  for (int64_t from : {5, 20, 35, 50, 65, 80}) {
    const TempFolder scratch;
    const std::string run = scratch.path() + "/run";
    FaultEnv env(disk);
    env.fill_disk_at(from);
    const int code = train_in_child(&env, run);
    EXPECT_EQ(code, 1) << "full from operation " << from;
    ASSERT_EQ(train_in_child(disk, run), 0);
    EXPECT_EQ(essence(run), wanted) << "full from operation " << from;
  }
}

TEST_F(CheckpointRun, ADamagedNewestCheckpointFallsBackToTheOneBefore) {
  const TempFolder reference, scratch;
  ASSERT_EQ(train_in_child(disk, reference.path() + "/run"), 0);
  const std::string run = scratch.path() + "/run";
  ASSERT_EQ(train_in_child(disk, run, "steps=5"), 0);
  ASSERT_EQ(list_checkpoints(disk, run + "/checkpoints"),
            (std::vector<std::string>{"step-00000004", "step-00000005"}));
  const std::string file = run + "/checkpoints/step-00000005/model.safetensors";
  std::string bytes = read_text(disk, file);
  bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
  publish(disk, file, bytes);
  EXPECT_EQ(find_checkpoint(disk, run + "/checkpoints"), run + "/checkpoints/step-00000004");
  ASSERT_EQ(train_in_child(disk, run), 0);
  EXPECT_EQ(essence(run), essence(reference.path() + "/run"));
  // Nothing good left: an error, not a silent start from nothing.
  for (const std::string& name : list_checkpoints(disk, run + "/checkpoints"))
    publish(disk, run + "/checkpoints/" + name + "/model.safetensors", "x");
  EXPECT_EQ(train_in_child(disk, run, "steps=6"), 1);
}

TEST_F(CheckpointRun, AnotherRecipeIsRefusedAndAFreeKeyIsNot) {
  const TempFolder scratch;
  const std::string run = scratch.path() + "/run";
  ASSERT_EQ(train_in_child(disk, run, "steps=2"), 0);
  EXPECT_EQ(train_in_child(disk, run, "optimizer.base_lr=0.5"), 2);
  EXPECT_EQ(train_in_child(disk, run, "log.every=3"), 0);
}

TEST(Shard, SharesJoinToTheWhole) {
  const at::Tensor flat = at::arange(17);
  for (int64_t world : {1, 2, 3, 5, 17, 20}) {
    std::vector<at::Tensor> parts;
    for (int64_t rank = 0; rank < world; ++rank)
      parts.push_back(shard({{"x", flat}}, rank, world)[0].second);
    EXPECT_TRUE(at::cat(parts).equal(flat)) << world;
  }
}

}  // namespace
}  // namespace keiko::train
