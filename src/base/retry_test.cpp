#include "base/retry.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

namespace keiko {
namespace {

// How often `try_patiently` runs work that throws `e` the first `failures` times, and how long it
// waits in between; `gave_up` tells that the error came out.
struct Trial {
  int runs = 0;
  std::vector<int64_t> waits_ms;
  bool gave_up = false;
};
Trial try_with(const Error& e, int failures, bool is_wanted = true) {
  Trial t;
  try {
    try_patiently(
        [&] {
          if (t.runs++ < failures) throw e;
        },
        [&](std::chrono::milliseconds time) {
          t.waits_ms.push_back(time.count());
          return is_wanted;
        });
  } catch (const Error& thrown) {
    EXPECT_STREQ(thrown.what(), e.what());
    t.gave_up = true;
  }
  return t;
}

TEST(Retry, AFailedReadIsTriedFourTimesWithGrowingWaits) {
  const Error e(ErrorKind::kIo, "f: cannot read", EIO);
  const Trial passes = try_with(e, 3);
  EXPECT_FALSE(passes.gave_up);
  EXPECT_EQ(passes.runs, 4);
  EXPECT_EQ(passes.waits_ms, (std::vector<int64_t>{100, 400, 1600}));
  const Trial lasts = try_with(e, 100);
  EXPECT_TRUE(lasts.gave_up);
  EXPECT_EQ(lasts.runs, 4);
}

TEST(Retry, WhatWaitingDoesNotCureIsNotTriedAgain) {
  for (const Error& e : {Error(ErrorKind::kIo, "f: no space", ENOSPC),
                         Error(ErrorKind::kIo, "f: no permission", EACCES),
                         Error(ErrorKind::kData, "f: not a video")}) {
    const Trial t = try_with(e, 100);
    EXPECT_TRUE(t.gave_up) << e.what();
    EXPECT_EQ(t.runs, 1) << e.what();
  }
}

TEST(Retry, AResultThatNobodyWantsAnyMoreIsGivenUpAtOnce) {
  const Trial t = try_with(Error(ErrorKind::kIo, "f: cannot read", EIO), 100, false);
  EXPECT_TRUE(t.gave_up);
  EXPECT_EQ(t.runs, 1);
}

}  // namespace
}  // namespace keiko
