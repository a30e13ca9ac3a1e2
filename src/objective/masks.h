// Which tokens a masked autoencoder hides: a function of (seed, position) alone.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/vit.h"

namespace keiko::objective {

// - "tube": one spatial mask repeated over time; int(ratio * rows * columns) places are hidden.
// - "random": int(ratio * N) tokens anywhere.
// - "future": the last round(ratio * times) tubelet times are hidden, all else is seen.
struct MaskRule {
  std::string kind = "tube";
  double ratio = 0.9;
};

// Number of hidden tokens in each clip. Throws Error(kUsage) when it is none or all.
int64_t hidden_count(const MaskRule& rule, const model::TokenGrid& grid);

// N flags, true = hidden.
std::vector<bool> make_mask(const MaskRule& rule, const model::TokenGrid& grid, uint64_t seed,
                            int64_t position);

}  // namespace keiko::objective
