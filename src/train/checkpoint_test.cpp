// Checkpoints and resume under full disks and damage, with a real (tiny) training run. Power cuts
// are in power_cut_test.cpp, disks that fail or are slow in faulty_disk_test.cpp.

#include "train/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/videomae.h"
#include "train/agreement.h"
#include "train/run_for_tests.h"

namespace keiko::train {
namespace {

class CheckpointRun : public TinyRun {
 protected:
  // One rank; returns its exit code.
  static int train_alone(const std::string& run, const std::vector<std::string>& overrides = {},
                         const EnvOfRank& env_of_rank = {}) {
    return train_ranks(1, run, overrides, env_of_rank)[0];
  }
};

TEST_F(CheckpointRun, AFullDiskEndsTheRunByNameAndLosesNoCommittedStep) {
  const TempFolder reference;
  FaultDisk counted;
  ASSERT_EQ(train_alone(reference.path() + "/run", {},
                        [&](int64_t) { return std::make_unique<FaultEnv>(disk, &counted); }),
            0);
  const std::string wanted = essence(reference.path() + "/run", 1);
  const int64_t operations = counted.operations(0);
  for (int64_t from = 5; from < operations; from += operations / 12) {
    const TempFolder scratch;
    const std::string run = scratch.path() + "/run";
    const int code = train_alone(run, {}, [&](int64_t) {
      auto env = std::make_unique<FaultEnv>(disk);
      env->fill_disk_at(from);
      return env;
    });
    EXPECT_EQ(code, 1) << "full from operation " << from;
    const std::string said = read_text(disk, run + ".said-0");
    EXPECT_NE(said.find("No space left on device; free some space there"), std::string::npos)
        << said;
    ASSERT_EQ(train_alone(run), 0);
    EXPECT_EQ(essence(run, 1), wanted) << "full from operation " << from;
  }
}

TEST_F(CheckpointRun, ADamagedNewestCheckpointFallsBackToTheOneBefore) {
  const TempFolder reference, scratch;
  ASSERT_EQ(train_alone(reference.path() + "/run"), 0);
  const std::string run = scratch.path() + "/run";
  ASSERT_EQ(train_alone(run, {"steps=5"}), 0);
  ASSERT_EQ(list_checkpoints(disk, run + "/checkpoints"),
            (std::vector<std::string>{"step-00000004", "step-00000005"}));
  const std::string file = run + "/checkpoints/step-00000005/model.safetensors";
  std::string bytes = read_text(disk, file);
  bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
  publish(disk, file, bytes);
  EXPECT_EQ(find_checkpoint(disk, run + "/checkpoints"), run + "/checkpoints/step-00000004");
  ASSERT_EQ(train_alone(run), 0);
  EXPECT_EQ(essence(run, 1), essence(reference.path() + "/run", 1));
  // Nothing good left: an error, not a silent start from nothing.
  for (const std::string& name : list_checkpoints(disk, run + "/checkpoints"))
    publish(disk, run + "/checkpoints/" + name + "/model.safetensors", "x");
  EXPECT_EQ(train_alone(run, {"steps=6"}), 1);
}

TEST_F(CheckpointRun, AnotherRecipeIsRefusedAndAFreeKeyIsNot) {
  const TempFolder scratch;
  const std::string run = scratch.path() + "/run";
  ASSERT_EQ(train_alone(run, {"steps=2"}), 0);
  EXPECT_EQ(train_alone(run, {"optimizer.base_lr=0.5"}), 2);
  EXPECT_EQ(train_alone(run, {"log.every=3"}), 0);
}

// So a save need not hash them again.
TEST(Replicas, TheHashThatComesOfComparingThemIsThatOfTheParameters) {
  dist::run_ranks(2, [](dist::Communicator& communicator) {
    model::Parameters parameters(at::kFloat);
    model::VitOptions vit;
    vit.model = "custom";
    vit.width = 16;
    vit.depth = 1;
    vit.heads = 2;
    vit.patch_size = 8;
    const model::VideoMaeClassifier classifier(parameters, vit, model::make_grid(vit, 4, 16),
                                               model::VideoMaeHeadOptions{5});
    parameters.allocate(1);
    return check_replicas(parameters, 1, communicator) == parameters.hash() ? 0 : 1;
  });
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
