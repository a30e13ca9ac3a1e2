// Numbers of a step over ranks, the slowest rank, ranks that are not alike, and marks.

#include "train/step_sums.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/temp_folder.h"
#include "dist/ranks_for_tests.h"
#include "train/agreement.h"
#include "train/marks.h"

namespace keiko::train {
namespace {

TEST(StepSums, EveryNumberIsTheSumOverRanks) {
  for (int64_t world : {1, 2, 3})
    dist::run_ranks(world, [world](dist::Communicator& c) {
      StepSums mine;
      mine.loss = double(c.rank()) + 0.5;
      mine.metrics = {1, double(c.rank())};
      mine.bad = 2;
      mine.stop_requests = c.rank() == 0 ? 1 : 0;
      mine.unwritten = 1;
      mine.decoded_frames = 10;
      const StepSums sums = sum_over_ranks(mine, 0.25 + double(c.rank()), c);
      const int64_t ranks = world * (world - 1) / 2;
      if (sums.loss != double(ranks) + 0.5 * double(world)) return 2;
      if (sums.metrics != std::vector<double>{double(world), double(ranks)}) return 3;
      if (sums.bad != 2 * world || sums.stop_requests != 1) return 4;
      if (sums.unwritten != world || sums.decoded_frames != 10 * world) return 5;
      for (int64_t r = 0; r < world; ++r)
        if (sums.rank_s[size_t(r)] != 0.25 + double(r)) return 6;
      return 0;
    });
}

TEST(StragglerWatch, NamesTheRankThatTheOthersWaitFor) {
  StragglerWatch watch;
  for (int i = 0; i < 10; ++i) watch.add({1.0, 1.1, 2.0, 0.9});
  const auto found = watch.take();
  EXPECT_EQ(found.rank, 2);
  EXPECT_TRUE(found.is_slow);
  EXPECT_DOUBLE_EQ(found.slowest_s, 2.0);
  for (int i = 0; i < 10; ++i) watch.add({1.0, 1.1, 1.2, 0.9});
  EXPECT_FALSE(watch.take().is_slow);
  for (int i = 0; i < 10; ++i) watch.add({1.0, 2.0});
  EXPECT_TRUE(watch.take().is_slow) << "one of two";
  watch.add({1.0, 9.0});
  EXPECT_FALSE(watch.take().is_slow) << "one step is no evidence";
}

// The message of what `check` throws on this rank; "" when nothing.
template <class Check>
std::string message_of(Check check) {
  try {
    check();
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Agreement, NamesTheRankThatDiffersAndInWhat) {
  dist::run_ranks(3, [](dist::Communicator& c) {
    RankIdentity same{"node" + std::to_string(c.rank()), "keiko 1", "seed: 1\nsteps: 10\n", "ab 0"};
    if (check_ranks_agree(same, c) != std::vector<std::string>{"node0", "node1", "node2"}) return 2;
    const auto differing = [&](auto change) {
      RankIdentity mine = same;
      if (c.rank() == 2) change(mine);
      return message_of([&] { check_ranks_agree(mine, c); });
    };
    if (differing([](RankIdentity& i) {
          i.recipe = "seed: 1\nsteps: 20\n";
        }).find("rank 2 (node2) has another recipe than rank 0 (node0): steps: 10 | steps: 20;") !=
        0)
      return 3;
    if (differing([](RankIdentity& i) {
          i.computes = "cpu, fp32";
        }).find("another device or precision") == std::string::npos)
      return 6;
    if (differing([](RankIdentity& i) { i.build = "keiko 2"; }).find("another build") ==
        std::string::npos)
      return 4;
    if (differing([](RankIdentity& i) { i.data = "cd 0"; }).find("another data set") ==
        std::string::npos)
      return 5;
    return 0;
  });
}

TEST(Agreement, AFlippedBitIsFoundWithItsBufferAndRank) {
  dist::run_ranks(3, [](dist::Communicator& c) {
    model::Parameters p(at::kFloat);
    p.declare({"a.weight", {40, 2}, 0, true});
    p.declare({"b.weight", {30, 3}, 1, true});
    p.allocate(1);
    check_replicas(p, 5, c);
    if (c.rank() == 1) static_cast<uint8_t*>(p.buffers()[1].value.mutable_data_ptr())[77] ^= 1;
    const std::string message = message_of([&] { check_replicas(p, 6, c); });
    return message.find(
               "step 6: the weights of the ranks differ in block01.decay: rank 1 has "
               "others than most") == 0
               ? 0
               : 2;
  });
}

TEST(Marks, ARestartedRankEndsAsTheOneThatLeftTheMark) {
  const TempFolder folder;
  dist::LaunchEnvironment first, again, other_job;
  first.job = again.job = "job1";
  again.restart = 1;
  other_job.job = "job2";
  other_job.restart = 1;
  const auto kind_of = [&](const dist::LaunchEnvironment& launch) {
    try {
      heed_marks(default_env(), folder.path(), launch);
      return -1;
    } catch (const Error& e) {
      return int(e.kind());
    }
  };
  for (ErrorKind kind : {ErrorKind::kPreempted, ErrorKind::kUsage, ErrorKind::kTooMuchBad}) {
    leave_mark(default_env(), folder.path(), first, kind, "why");
    EXPECT_EQ(kind_of(again), int(kind));
    EXPECT_EQ(kind_of(other_job), -1) << "a new job takes the mark away";
    EXPECT_EQ(kind_of(again), -1);
  }
  leave_mark(default_env(), folder.path(), first, ErrorKind::kIo, "a disk failed");
  EXPECT_EQ(kind_of(again), -1) << "a restart may mend this";
  leave_mark(default_env(), folder.path(), {}, ErrorKind::kPreempted, "no launcher restarts this");
  EXPECT_EQ(default_env()->list(folder.path()).size(), 0u);
}

}  // namespace
}  // namespace keiko::train
