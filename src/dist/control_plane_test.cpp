// Who is named when a rank dies, stops or cannot be reached: ranks as threads, a store in memory.

#include "dist/control_plane.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "base/error.h"
#include "base/machine.h"

namespace keiko::dist {
namespace {

// A store that all ranks of a test share, and that can go away or hang.
struct SharedStore {
  std::mutex mutex;
  std::map<std::string, std::string> values;
  std::atomic<bool> is_gone = false, hangs = false;
};

class MemoryStore : public ControlStore {
 public:
  explicit MemoryStore(std::shared_ptr<SharedStore> shared) : shared_(std::move(shared)) {}
  void set(const std::string& key, const std::string& value) override {
    const auto lock = enter();
    shared_->values[key] = value;
  }
  std::optional<std::string> get(const std::string& key) override {
    const auto lock = enter();
    const auto found = shared_->values.find(key);
    return found == shared_->values.end() ? std::nullopt : std::optional(found->second);
  }
  std::string describe() const override { return "the store of the test"; }

 private:
  std::unique_lock<std::mutex> enter() {
    while (shared_->hangs) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (shared_->is_gone) fail(ErrorKind::kIo, "connection closed");
    return std::unique_lock(shared_->mutex);
  }
  std::shared_ptr<SharedStore> shared_;
};

constexpr double kSilence = 1.0;  // seconds; a sign of life every tenth

struct Ranks {
  explicit Ranks(int64_t world) : shared(std::make_shared<SharedStore>()), ended(size_t(world)) {
    for (int64_t r = 0; r < world; ++r) {
      LaunchEnvironment launch;
      launch.rank = r;
      launch.world_size = world;
      ControlOptions options;
      options.silence_s = kSilence;
      options.end_process = [this, r](const std::string& message) {
        const std::lock_guard lock(mutex);
        ended[size_t(r)] = message;
      };
      planes.push_back(std::make_unique<ControlPlane>(std::make_unique<MemoryStore>(shared), launch,
                                                      std::move(options)));
    }
  }
  ~Ranks() { shared->hangs = false; }
  std::string end_of(int64_t rank) {
    const std::lock_guard lock(mutex);
    return ended[size_t(rank)];
  }
  // Waits for all ranks but `dead` to be ended.
  bool wait_for_ends(int64_t dead, double seconds) {
    const double until = monotonic_s() + seconds;
    while (monotonic_s() < until) {
      bool all = true;
      for (size_t r = 0; r < planes.size(); ++r)
        all = all && (int64_t(r) == dead || !end_of(int64_t(r)).empty());
      if (all) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::shared_ptr<SharedStore> shared;
  std::mutex mutex;
  std::vector<std::string> ended;
  std::vector<std::unique_ptr<ControlPlane>> planes;
};

TEST(ControlPlane, ASilentRankIsNamedByAllWithItsStepAndWhatItWaitedFor) {
  for (int64_t world : {2, 3, 5})
    for (int64_t dead = 0; dead < world; dead += world - 1) {
      Ranks ranks(world);
      ranks.planes[size_t(dead)]->at_step(18204);
      ranks.planes[size_t(dead)]->waits_for("all_reduce of bucket 5");
      ranks.planes[0]->saved(18000);
      for (auto& plane : ranks.planes) plane->saved(18000);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      ranks.planes[size_t(dead)].reset();  // without a word, as SIGKILL does it
      ASSERT_TRUE(ranks.wait_for_ends(dead, 20)) << "rank " << dead << " of " << world;
      for (int64_t r = 0; r < world; ++r) {
        if (r == dead) continue;
        const std::string message = ranks.end_of(r);
        EXPECT_NE(message.find(fmt::format("rank {} (", dead)), std::string::npos) << message;
        EXPECT_NE(message.find("has not answered for"), std::string::npos) << message;
        EXPECT_NE(message.find("last seen in step 18,204, all_reduce of bucket 5"),
                  std::string::npos)
            << message;
        EXPECT_NE(message.find("go on from step 18,000"), std::string::npos) << message;
      }
    }
}

TEST(ControlPlane, ABrokenConnectionIsExplainedByTheRankBehindIt) {
  Ranks ranks(4);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  ranks.planes[2].reset();
  const double begun = monotonic_s();
  const std::string message =
      ranks.planes[0]->explain("all_reduce of bucket 1", "connection reset");
  EXPECT_EQ(message.rfind("rank 2 (", 0), 0u) << message;
  // Three signs of life missed are enough then.
  EXPECT_LT(monotonic_s() - begun, kSilence + 2);
}

TEST(ControlPlane, ARanksOwnErrorReachesTheOthers) {
  Ranks ranks(3);
  ranks.planes[1]->at_step(7);
  ranks.planes[1]->give_up("an item has no label");
  for (int64_t r : {0, 2}) {
    const std::string message = ranks.planes[size_t(r)]->explain("all_reduce", "connection reset");
    EXPECT_NE(message.find("ended in step 7: an item has no label"), std::string::npos) << message;
  }
}

TEST(ControlPlane, AFailedCollectiveOfLivingRanksNamesThoseThatStillCompute) {
  Ranks ranks(3);
  ranks.planes[0]->waits_for("all_reduce");
  ranks.planes[1]->waits_for("all_reduce");
  ranks.planes[2]->at_step(4);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const std::string message = ranks.planes[0]->explain("all_reduce", "timed out");
  EXPECT_EQ(message.rfind("all ranks are alive, but all_reduce failed: timed out. Still computing: "
                          "rank 2 (",
                          0),
            0u)
      << message;
}

TEST(ControlPlane, WhoFinishedIsNotMissed) {
  Ranks ranks(3);
  ranks.planes[1]->finish();
  ranks.planes[1].reset();
  EXPECT_FALSE(ranks.wait_for_ends(-1, 2.5 * kSilence));
  for (int64_t r : {0, 2}) EXPECT_EQ(ranks.end_of(r), "");
}

TEST(ControlPlane, ALostStoreIsReportedAsTheLossOfItsHost) {
  Ranks ranks(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ranks.shared->is_gone = true;
  ASSERT_TRUE(ranks.wait_for_ends(-1, 10));
  EXPECT_EQ(ranks.end_of(1).rfind("lost the store of the test: connection closed", 0), 0u)
      << ranks.end_of(1);
}

TEST(ControlPlane, AStoreThatHangsEndsTheProcessToo) {
  Ranks ranks(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ranks.shared->hangs = true;
  ASSERT_TRUE(ranks.wait_for_ends(-1, 10));
  EXPECT_EQ(ranks.end_of(0).rfind("the store of the test has not answered for", 0), 0u)
      << ranks.end_of(0);
}

}  // namespace
}  // namespace keiko::dist
