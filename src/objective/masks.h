// Which tokens are hidden: a function of (seed, position), and of (seed, step) for what a batch
// shares.

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

// Which masked tokens a decoder has to say (VideoMAE v2, Wang et al. 2023, "running cell"): the
// frame is tiled with cells of 2x2 tokens; at each tubelet time `ratio` of a cell's four places are
// left out, and the places move on with time, so that over four times every place is decoded
// equally often. Rows and columns of the grid must be even.
struct DecoderMaskRule {
  double ratio = 0;  // share of tokens that are not decoded: 0 (off), 0.25, 0.5 or 0.75
};

// N flags, true = the decoder leaves it out. The first place of the run is drawn from (seed,
// position).
std::vector<bool> make_decoder_mask(const DecoderMaskRule& rule, const model::TokenGrid& grid,
                                    uint64_t seed, int64_t position);

// Multi-block masks of V-JEPA (Bardes et al. 2024): each clip hides the union of `blocks`
// rectangles over all times, of one size a batch.
struct BlockMaskRule {
  int64_t blocks = 8;
  double scale = 0.15;                         // area of a block as a share of the frame
  double min_aspect = 0.75, max_aspect = 1.5;  // height over width

  void bind(config::Binder& b);
};

// How the clips of a batch get equal numbers of tokens: by leaving out tokens at random, or (the
// published code) by dropping the last ones in raster order, which loses the clip's end.
enum class MaskCut { kRandom, kRaster };

// What one rule makes of a micro-batch: token indices in raster order.
struct ContextTarget {
  at::Tensor context, target;  // int64 [b, K], [b, M]
};

// `generator`: the rule's number in its list, so that rules draw differently. `positions`: clips of
// the micro-batch. Block size, K and M come from all positions [batch_first, batch_last) and
// `step`, so they are equal on all ranks. Cost: one mask for every position of the batch.
ContextTarget make_block_masks(const BlockMaskRule& rule, int64_t generator, MaskCut cut,
                               const model::TokenGrid& grid, uint64_t seed, int64_t step,
                               int64_t batch_first, int64_t batch_last,
                               const std::vector<int64_t>& positions);

}  // namespace keiko::objective
