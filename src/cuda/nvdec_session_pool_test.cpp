#include "cuda/nvdec_session_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/rng.h"

namespace keiko::cuda {
namespace {

// A session without hardware that notices when two threads use it, or when it is used after close.
class FakeSession : public NvdecSession {
 public:
  static inline std::atomic<int> alive{0};
  FakeSession(NvdecSessionKey key, int number) : key(std::move(key)), number(number) { ++alive; }
  ~FakeSession() override {
    EXPECT_FALSE(in_use) << "closed while used";
    --alive;
  }
  media::FrameDecoder& begin(const media::StreamParameters&) override {
    fail(ErrorKind::kInternal, "a fake session decodes nothing");
  }
  int64_t hardware_opens() const override { return 1; }
  std::string refusal() const override { return ""; }

  const NvdecSessionKey key;
  const int number;
  std::atomic<bool> in_use{false};
};

media::StreamParameters stream_of(int width) {
  media::StreamParameters s;
  s.codec = "vp9";
  s.pixel_format = "yuv420p";
  s.width = width;
  s.height = 64;
  return s;
}
NvdecSessionKey key_of(int width) { return *nvdec_session_key(stream_of(width), 2); }

struct Fakes {
  std::atomic<int> opened{0};
  NvdecSessionPool pool;
  explicit Fakes(NvdecSessionPool::Bounds bounds = {})
      : pool(
            [this](const NvdecSessionKey& key, const media::StreamParameters&) {
              return std::make_unique<FakeSession>(key, opened++);
            },
            bounds) {}
  // Takes a session, gives it back whole, and says which one it was.
  int use(int width, bool whole = true) {
    auto lease = pool.take(key_of(width), stream_of(width));
    if (whole) lease.keep();
    return static_cast<FakeSession&>(*lease).number;
  }
};

TEST(NvdecSessionPool, AnIdleSessionOfTheSameKeyIsUsedAgain) {
  Fakes fakes;
  EXPECT_EQ(fakes.use(64), 0);
  EXPECT_EQ(fakes.use(64), 0);
  EXPECT_EQ(fakes.use(128), 1) << "another size is another session";
  EXPECT_EQ(fakes.use(64), 0);
  const auto counts = fakes.pool.counts();
  EXPECT_EQ(counts.opened, 2);
  EXPECT_EQ(counts.reused, 2);
  EXPECT_EQ(counts.idle, 2u);
  EXPECT_EQ(counts.busy, 0u);
  EXPECT_EQ(counts.bytes, estimated_bytes(key_of(64)) + estimated_bytes(key_of(128)));
}

TEST(NvdecSessionPool, ASessionInUseIsGivenToNobodyElse) {
  Fakes fakes;
  auto first = fakes.pool.take(key_of(64), stream_of(64));
  auto second = fakes.pool.take(key_of(64), stream_of(64));
  EXPECT_NE(&*first, &*second);
  EXPECT_EQ(fakes.pool.counts().busy, 2u);
}

TEST(NvdecSessionPool, ASessionThatFailedIsNeverUsedAgain) {
  Fakes fakes;
  EXPECT_EQ(fakes.use(64, false), 0);
  EXPECT_EQ(FakeSession::alive, 0) << "it was kept open";
  EXPECT_EQ(fakes.use(64), 1);
  EXPECT_EQ(fakes.pool.counts().failed, 1);
  EXPECT_EQ(fakes.pool.counts().bytes, estimated_bytes(key_of(64)));
}

TEST(NvdecSessionPool, TheOneUnusedForLongestMakesRoom) {
  Fakes fakes({3, int64_t{1} << 60});
  for (int width : {64, 128, 192}) fakes.use(width);
  fakes.use(64);  // now 128 is the oldest
  EXPECT_EQ(fakes.use(256), 3);
  EXPECT_EQ(fakes.use(64), 0);
  EXPECT_EQ(fakes.use(192), 2);
  EXPECT_EQ(fakes.use(128), 4) << "128 had to go";
  EXPECT_EQ(fakes.pool.counts().evicted, 2);
  EXPECT_EQ(fakes.pool.counts().idle, 3u);
  EXPECT_EQ(FakeSession::alive, 3);
}

TEST(NvdecSessionPool, MemoryBoundsItToo) {
  const int64_t one = estimated_bytes(key_of(64));
  Fakes fakes({100, 2 * one + one / 2});
  // Sizes below 64 round up to the same memory.
  for (int width : {64, 62, 60, 58}) fakes.use(width);
  EXPECT_EQ(fakes.pool.counts().idle, 2u);
  EXPECT_LE(fakes.pool.counts().bytes, 2 * one + one / 2);
  EXPECT_EQ(fakes.pool.counts().evicted, 2);
}

TEST(NvdecSessionPool, BeyondItsBoundsItStillServesAndKeepsNothing) {
  Fakes fakes({1, int64_t{1} << 60});
  {
    auto first = fakes.pool.take(key_of(64), stream_of(64));
    auto second = fakes.pool.take(key_of(64), stream_of(64));
    first.keep();
    second.keep();
  }
  EXPECT_EQ(fakes.pool.counts().idle, 1u);
  EXPECT_EQ(FakeSession::alive, 1);
}

TEST(NvdecSessionPool, AFailureToOpenLeavesNoTrace) {
  NvdecSessionPool pool(
      [](const NvdecSessionKey&, const media::StreamParameters&) -> std::unique_ptr<NvdecSession> {
        fail(ErrorKind::kData, "no engine");
      },
      {});
  EXPECT_THROW(pool.take(key_of(64), stream_of(64)), Error);
  EXPECT_EQ(pool.counts().busy, 0u);
  EXPECT_EQ(pool.counts().bytes, 0);
  EXPECT_EQ(pool.counts().opened, 0);
}

TEST(NvdecSessionPool, ManyThreadsNeverShareASessionAndAccountsAdd) {
  {
    Fakes fakes({6, int64_t{1} << 60});
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 8; ++t)
      threads.emplace_back([&, t] {
        Rng rng(5, Stream::kClip, t);
        for (int i = 0; i < 400; ++i) {
          const int width = 64 * (1 + int(rng.below(5)));
          auto lease = fakes.pool.take(key_of(width), stream_of(width));
          auto& session = static_cast<FakeSession&>(*lease);
          EXPECT_EQ(session.key, key_of(width));
          EXPECT_FALSE(session.in_use.exchange(true)) << "two threads in one session";
          std::this_thread::yield();
          session.in_use = false;
          if (rng.below(10) > 0) lease.keep();
        }
      });
    for (std::thread& thread : threads) thread.join();
    const auto counts = fakes.pool.counts();
    EXPECT_EQ(counts.opened + counts.reused, 8 * 400);
    EXPECT_EQ(counts.opened, fakes.opened);
    EXPECT_EQ(counts.opened, counts.failed + counts.evicted + int64_t(counts.idle));
    EXPECT_EQ(counts.busy, 0u);
    EXPECT_LE(counts.idle, 6u);
    EXPECT_GT(counts.reused, 100);
    EXPECT_EQ(FakeSession::alive, int(counts.idle));
  }
  EXPECT_EQ(FakeSession::alive, 0);
}

}  // namespace
}  // namespace keiko::cuda
