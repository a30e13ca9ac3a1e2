// Many tokens to one vector by attention with a learned query, as V-JEPA's classifiers and probes
// do.
//
// Some pre-norm self-attention blocks (no rotation), then one block whose only query is learned:
// keys and values come from the normalised tokens, there is no output projection, and the residual
// is the query itself (Bardes et al. 2024; names and formulas: transformers'
// VJEPA2AttentivePooler).

#pragma once
#include "model/block.h"
#include "model/block_runner.h"

namespace keiko::model {

struct PoolerOptions {
  int64_t depth = 3;  // self-attention blocks
  int64_t heads = 16;
  double eps = 1e-6;
  bool tanh_gelu = false;
};

class AttentivePooler {
 public:
  // Declares "PREFIX.query_tokens" and so on; its blocks are first_block ... first_block + depth in
  // the flat buffers, the cross-attention being the last. The MLPs have 4 * width channels whatever
  // the encoder's ratio is.
  AttentivePooler(Parameters& parameters, const std::string& prefix, int first_block, int64_t width,
                  const PoolerOptions& options);

  // Tokens [B, N, D] -> [B, D].
  at::Tensor forward(const at::Tensor& tokens, const BlockRunner& runner) const;
  int last_block() const { return first_block_ + int(blocks_.size()); }

 private:
  int first_block_;
  int64_t heads_;
  bool tanh_gelu_;
  std::vector<Block> blocks_;
  at::Tensor query_;  // [1, 1, D]
  LayerNorm before_, after_;
  Linear q_, kv_, fc1_, fc2_;
};

}  // namespace keiko::model
