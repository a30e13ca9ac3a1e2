// The random numbers of one clip: by what they are for, the clip's position, and the attempt.

#pragma once
#include "base/rng.h"

namespace keiko::data {

// `attempt` counts the replacements of a bad sample; its draws start far from those of the next.
// `part` (under 16) is one of several things that a stream is drawn for; 4,096 blocks each.
inline Rng clip_rng(uint64_t seed, Stream stream, int64_t position, uint32_t attempt,
                    uint32_t part = 0) {
  constexpr uint32_t kBlocksPerAttempt = 1 << 16, kBlocksPerPart = 4096;
  return Rng(seed, stream, uint64_t(position), attempt * kBlocksPerAttempt + part * kBlocksPerPart);
}

}  // namespace keiko::data
