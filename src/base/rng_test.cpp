#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace keiko {
namespace {

using Block = std::array<uint32_t, 4>;

// Known answers from the paper's Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(Rng, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32_10({f, f, f, f}, {f, f}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, SeedStreamPositionAndAttemptEachChangeTheNumbers) {
  std::set<uint64_t> seen;
  for (uint64_t seed : {0, 1})
    for (Stream stream : {Stream::kClip, Stream::kCrop})
      for (uint64_t position : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 40})
        for (uint32_t attempt : {0u, 1000u})
          seen.insert(Rng(seed, stream, position, attempt).next_u64());
  EXPECT_EQ(seen.size(), 24u);
}

TEST(Rng, BelowIsUniformAndInRange) {
  Rng rng(1, Stream::kClip, 0);
  int counts[7] = {};
  for (int i = 0; i < 70000; ++i) ++counts[rng.below(7)];
  // 10,000 expected, standard deviation 93: five of them on each side.
  for (int count : counts) EXPECT_NEAR(count, 10000, 465);
}

TEST(Rng, NormalHasUnitVariance) {
  Rng rng(1, Stream::kInit, 0);
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
}

}  // namespace
}  // namespace keiko
