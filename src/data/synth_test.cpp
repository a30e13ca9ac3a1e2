#include "data/synth.h"

#include <gtest/gtest.h>

namespace keiko::data {
namespace {

TEST(Synth, IsAFunctionOfItsSeed) {
  SynthOptions o;
  EXPECT_EQ(synth_clip(o, 3), synth_clip(o, 3));
  EXPECT_NE(synth_clip(o, 3), synth_clip(o, 11));
  SynthOptions other = o;
  other.seed = 2;
  EXPECT_NE(synth_clip(o, 3), synth_clip(other, 3));
}

TEST(Synth, MovesInTheDirectionOfItsClass) {
  for (const char* task : {"drift", "sprites"}) {
    SynthOptions o;
    o.task = task;
    for (int64_t index = 0; index < 16; ++index) {
      const auto luma = synth_clip(o, index);
      // Among the eight shifts, the class's own explains the next frame best: (E, NE, N, ... SE).
      const int dx[] = {1, 1, 0, -1, -1, -1, 0, 1}, dy[] = {0, -1, -1, -1, 0, 1, 1, 1};
      int best = -1;
      double best_error = 1e18;
      for (int d = 0; d < 8; ++d) {
        double error = 0;
        for (int64_t t = 0; t + 1 < o.frames; ++t)
          for (int64_t y = 0; y < 32; ++y)
            for (int64_t x = 0; x < 32; ++x) {
              const int64_t sx = (x - 2 * dx[d] + 32) % 32, sy = (y - 2 * dy[d] + 32) % 32;
              const double a = luma[size_t(((t + 1) * 32 + y) * 32 + x)];
              const double b = luma[size_t((t * 32 + sy) * 32 + sx)];
              // The sprites' ground stands still: a pixel may also stay what it was.
              const double still = luma[size_t((t * 32 + y) * 32 + x)];
              error += std::min({400.0, (a - b) * (a - b), (a - still) * (a - still)});
            }
        if (error < best_error) {
          best_error = error;
          best = d;
        }
      }
      EXPECT_EQ(best, index % 8) << task << " clip " << index;
    }
  }
}

}  // namespace
}  // namespace keiko::data
