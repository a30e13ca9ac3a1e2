// A disk that fails, fills up or takes its time under a checkpoint: what the run says, what it
// keeps, and what it does meanwhile.

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "train/run_for_tests.h"

namespace keiko::train {
namespace {

const std::vector<std::string> kSaving = {"checkpoint.every=2", "steps=7"};
constexpr int64_t kLast = 7;

bool takes_space(DiskChange::Kind kind) {
  return kind == DiskChange::kCreate || kind == DiskChange::kOpen || kind == DiskChange::kWrite ||
         kind == DiskChange::kSync || kind == DiskChange::kMakeFolder;
}

class FaultyDisk : public TinyRun, public testing::WithParamInterface<int> {
 protected:
  // The number, among those of its rank, of the first operation that `is_wanted`; -1: none.
  static int64_t find_operation(const FaultDisk& counted, int64_t rank,
                                const std::function<bool(const DiskChange&)>& is_wanted) {
    int64_t number = 0;
    for (const DiskChange& change : counted.changes()) {
      if (change.rank != rank) continue;
      ++number;
      if (is_wanted(change)) return number;
    }
    return -1;
  }
};

TEST_P(FaultyDisk, EndsTheRunByNameBeforeAnotherSaveAndLosesNoCommittedStep) {
  const int64_t world = GetParam();
  const TempFolder reference;
  FaultDisk counted;
  ASSERT_EQ(
      train_ranks(world, reference.path() + "/run", kSaving,
                  [&](int64_t rank) { return std::make_unique<FaultEnv>(disk, &counted, rank); }),
      zeros(world));
  const std::string wanted = essence(reference.path() + "/run", world, kLast);

  struct Fault {
    DiskChange::Kind kind;
    std::string file;  // of step 4's folder, or the end of a path
    int code;          // ENOSPC: from there on
    double written;
  };
  for (int64_t rank = 0; rank < world; ++rank) {
    const std::string optimizer = fmt::format("/optimizer-{}-of-{}.safetensors", rank, world);
    std::vector<Fault> faults = {
        {DiskChange::kMakeFolder, "", EIO, 0},      {DiskChange::kCreate, optimizer, EIO, 0},
        {DiskChange::kWrite, optimizer, EIO, 0},    {DiskChange::kWrite, optimizer, EIO, 0.5},
        {DiskChange::kWrite, optimizer, ENOSPC, 0}, {DiskChange::kSync, optimizer, EIO, 0},
        {DiskChange::kSyncFolder, "", EIO, 0}};
    if (rank == 0)
      for (const Fault& fault : {Fault{DiskChange::kWrite, "/model.safetensors", EIO, 0.5},
                                 Fault{DiskChange::kSync, "/model.safetensors", EDQUOT, 0},
                                 Fault{DiskChange::kWrite, "/config.json", ENOSPC, 0},
                                 Fault{DiskChange::kWrite, "/state.json.tmp", EIO, 0.5},
                                 Fault{DiskChange::kRename, "/state.json", EIO, 0},
                                 Fault{DiskChange::kCreate, "/COMMIT", ENOSPC, 0},
                                 Fault{DiskChange::kSync, "/COMMIT", EIO, 0}})
        faults.push_back(fault);
    for (const Fault& fault : faults) {
      const std::string path = "/checkpoints/" + checkpoint_name(4) + fault.file;
      const int64_t operation = find_operation(counted, rank, [&](const DiskChange& change) {
        return change.kind == fault.kind && change.path.ends_with(path);
      });
      SCOPED_TRACE(fmt::format("rank {} fails with {} at its operation {}: {} {}", rank, fault.code,
                               operation, char(fault.kind), path));
      ASSERT_GT(operation, 0);
      const TempFolder scratch;
      const std::string run = scratch.path() + "/run";
      FaultDisk shared;
      const auto codes = train_ranks(world, run, kSaving, [&](int64_t r) {
        auto env = std::make_unique<FaultEnv>(disk, &shared, r);
        if (r != rank) return env;
        // Told of the step's files and, from a thread of their own, of the checkpoint's.
        const auto has_failed = std::make_shared<std::atomic<bool>>(false);
        env->before_each([fault, path, has_failed](DiskChange::Kind kind, const std::string& at) {
          const bool is_it = kind == fault.kind && at.ends_with(path);
          // A full disk stays full.
          const bool fails = *has_failed ? fault.code == ENOSPC && takes_space(kind) : is_it;
          if (is_it) *has_failed = true;
          return fails ? DiskFault{fault.code, fault.written} : DiskFault{};
        });
        return env;
      });
      EXPECT_EQ(codes, std::vector<int>(size_t(world), 1));
      const std::string said = read_text(disk, fmt::format("{}.said-{}", run, rank));
      // A full disk may be met elsewhere first, by a line of the log.
      EXPECT_TRUE(fault.code == ENOSPC || said.find(path) != std::string::npos) << said;
      EXPECT_NE(said.find(fault.code == ENOSPC ? "No space left on device; free some space there"
                                               : std::strerror(fault.code)),
                std::string::npos)
          << said;
      const Saves saves = read_saves(shared);
      EXPECT_EQ(saves.begun.count(6), 0u);
      EXPECT_GE(saves.committed, 2);
      const auto found = find_checkpoint(disk, run + "/checkpoints");
      ASSERT_TRUE(found);
      EXPECT_GE(step_in(*found), saves.committed);
      ASSERT_EQ(train_ranks(world, run, kSaving), zeros(world));
      ASSERT_EQ(essence(run, world, kLast), wanted);
    }
  }
}

// One rank's disk takes so long with step 2's files that the next save is due meanwhile. The order
// of what reached the disk tells who waited for whom.
TEST_P(FaultyDisk, ThatIsSlowHoldsUpTheNextSaveAndNoStepBefore) {
  const int64_t world = GetParam(), slow = world - 1;
  const TempFolder reference;
  ASSERT_EQ(train_ranks(world, reference.path() + "/run", kSaving), zeros(world));
  for (const auto kind : {DiskChange::kWrite, DiskChange::kSync}) {
    const std::string held =
        fmt::format("{}/optimizer-{}-of-{}.safetensors", checkpoint_name(2), slow, world);
    SCOPED_TRACE(fmt::format("held: {} {}", char(kind), held));
    const TempFolder scratch;
    const std::string run = scratch.path() + "/run";
    FaultDisk shared;
    const auto steps_done = [&] {
      int64_t lines = 0;
      for (const DiskChange& change : shared.changes())
        lines += change.kind == DiskChange::kWrite && change.path.ends_with("/metrics.jsonl");
      return lines;
    };
    const auto with_slow_disk = [&](int64_t rank) {
      auto env = std::make_unique<FaultEnv>(disk, &shared, rank);
      if (rank == slow)
        env->before_each([&](DiskChange::Kind now, const std::string& path) {
          if (now != kind || !path.ends_with(held)) return DiskFault{};
          for (int tries = 0; tries < 2000 && steps_done() < 4; ++tries)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          // A save of step 4 that did not wait would begin now.
          std::this_thread::sleep_for(std::chrono::milliseconds(100));
          return DiskFault{};
        });
      return env;
    };
    ASSERT_EQ(train_ranks(world, run, kSaving, with_slow_disk), zeros(world));
    int64_t lines = 0, lines_before_held = -1;
    for (const DiskChange& change : shared.changes()) {
      lines += change.kind == DiskChange::kWrite && change.path.ends_with("/metrics.jsonl");
      if (change.kind == kind && change.path.ends_with(held) && lines_before_held < 0)
        lines_before_held = lines;
    }
    EXPECT_EQ(lines_before_held, 4) << "steps 3 and 4 were trained meanwhile, and 5 waited";
    const Saves saves = read_saves(shared);
    EXPECT_EQ(saves.overlap, "");
    EXPECT_EQ(saves.begun, (std::set<int64_t>{2, 4, 6, 7}));
    EXPECT_EQ(essence(run, world, kLast), essence(reference.path() + "/run", world, kLast));
  }
}

// Older checkpoints go in the background; that it fails is said by the next save, on every rank.
TEST_P(FaultyDisk, ThatRemovesNothingEndsTheRunByNameAtTheNextSave) {
  const int64_t world = GetParam();
  const TempFolder scratch;
  const std::string run = scratch.path() + "/run";
  const std::string path = "/checkpoints/" + checkpoint_name(2) + "/COMMIT";
  FaultDisk shared;
  const auto codes = train_ranks(world, run, kSaving, [&](int64_t rank) {
    auto env = std::make_unique<FaultEnv>(disk, &shared, rank);
    env->before_each([&](DiskChange::Kind kind, const std::string& at) {
      return DiskFault{kind == DiskChange::kRemove && at.ends_with(path) ? EIO : 0};
    });
    return env;
  });
  EXPECT_EQ(codes, std::vector<int>(size_t(world), 1));
  const std::string said = read_text(disk, run + ".said-0");
  EXPECT_NE(said.find(path + ": cannot remove: Input/output error"), std::string::npos) << said;
  if (world > 1) {
    const std::string other = read_text(disk, run + ".said-1");
    EXPECT_NE(other.find("rank 0 failed, see its message"), std::string::npos) << other;
  }
  EXPECT_EQ(find_checkpoint(disk, run + "/checkpoints"),
            run + "/checkpoints/" + checkpoint_name(6));
  EXPECT_EQ(train_ranks(world, run, kSaving), zeros(world));
  EXPECT_EQ(list_checkpoints(disk, run + "/checkpoints"),
            (std::vector<std::string>{checkpoint_name(6), checkpoint_name(7)}));
}

INSTANTIATE_TEST_SUITE_P(Ranks, FaultyDisk, testing::Values(1, 2));

// The files of step 2 are not down when the weights of step 3 turn out to differ.
TEST_F(TinyRun, ASaveFromBeforeTheRanksDivergedIsFinished) {
  const TempFolder scratch;
  const std::string run = scratch.path() + "/run";
  FaultDisk shared;
  const auto codes = train_ranks(
      2, run,
      {"checkpoint.every=2", "guard.replicas_every=1", "debug.flip_bit_rank=1",
       "debug.flip_bit_step=3"},
      [&](int64_t rank) {
        auto env = std::make_unique<FaultEnv>(disk, &shared, rank);
        env->before_each([&](DiskChange::Kind kind, const std::string& path) {
          if (kind != DiskChange::kSync || !path.ends_with("optimizer-1-of-2.safetensors"))
            return DiskFault{};
          const auto is_there = [&] {
            int64_t lines = 0;
            for (const DiskChange& change : shared.changes())
              lines += change.kind == DiskChange::kWrite && change.path.ends_with("/metrics.jsonl");
            return lines >= 3;
          };
          for (int tries = 0; tries < 2000 && !is_there(); ++tries)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          return DiskFault{};
        });
        return env;
      });
  EXPECT_EQ(codes, (std::vector<int>{1, 1}));
  for (int64_t rank : {0, 1}) {
    const std::string said = read_text(disk, fmt::format("{}.said-{}", run, rank));
    EXPECT_NE(said.find("step 3: the weights of the ranks differ"), std::string::npos) << said;
  }
  EXPECT_EQ(list_checkpoints(disk, run + "/checkpoints"),
            std::vector<std::string>{checkpoint_name(2)});
}

}  // namespace
}  // namespace keiko::train
