// Counter-based random numbers: every draw is a pure function of (seed, stream, position, draw).
//
// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). There is
// no generator to seed, share or save: two ranks that ask for the same position get the same
// number.

#pragma once
#include <array>
#include <cstdint>

namespace keiko {

// What a random number is for. Two streams never share numbers. Values are part of the determinism
// contract: they are written into checkpoints' meaning and must never change.
enum class Stream : uint32_t {
  kOrder = 1,
  kClip = 2,
  kCrop = 3,
  kFlip = 4,
  kAugment = 5,
  kMask = 6,
  kDropPath = 7,
  kMixup = 8,
  kSynth = 9,
  kInit = 10,
  kSimulate = 11,  // models of machines (dist/cluster_model.h); no run draws from it
};

// The block function: encrypts a 128-bit counter under a 64-bit key.
std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A short sequence of draws for one (seed, stream, position). Cheap to make; not shared by threads.
class Rng {
 public:
  // `position`: the sample, step or parameter that the numbers belong to.
  // `first_draw`: block to start from, so that retries of a position (attempts) get fresh numbers.
  Rng(uint64_t seed, Stream stream, uint64_t position, uint32_t first_draw = 0);

  uint32_t next_u32();
  uint64_t next_u64();
  // Uniform in [0, 1), 53 bits.
  double uniform();
  // Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // Uniform integer in [0, n), without modulo bias. n > 0.
  uint64_t below(uint64_t n);
  // Standard normal (Box-Muller; both values of a pair are used).
  double normal();

 private:
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> block_;
  int used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace keiko
