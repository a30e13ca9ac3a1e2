// One pre-norm transformer block, as every model here has it: x + attention(norm(x)), then
// x + mlp(norm(x)).
//
// VideoMAE, V-JEPA 2 and attentive poolers differ in their parameters' names, in which of query,
// key and value have a bias, and in whether queries and keys are rotated by their position.

#pragma once
#include <string>

#include "model/rope.h"
#include "model/vit.h"

namespace keiko::model {

enum class AttentionBias {
  kNone,
  kQueryValue,  // VideoMAE: the key needs none, softmax would cancel it
  kAll,
};

// Parameter names after the block's prefix.
struct BlockNames {
  const char *before, *after;  // the norms before attention and before the MLP
  const char* qkv;             // the three below as one parameter; never published
  const char *query, *key, *value;
  const char *q_bias, *k_bias, *v_bias;
  const char *out, *fc1, *fc2;
};
extern const BlockNames kVideoMaeNames, kVJepa2Names, kPoolerNames;

struct BlockShape {
  int64_t width = 0, mlp_width = 0, heads = 1;
  double eps = 1e-6;
  bool tanh_gelu = false;
  AttentionBias bias = AttentionBias::kAll;
  Init init = Init::kTruncNormal;
  double scale = 0.02;           // of kTruncNormal
  double residual_scale = 0.02;  // the same for what is added to the residual stream: out and fc2
};

// What the options of a transformer say of blocks of that size; names of biases and first values
// are each model's own.
BlockShape shape_of_blocks(const VitOptions& options, int64_t width, int64_t mlp_width,
                           int64_t heads);

struct Block {
  LayerNorm before, after;
  at::Tensor qkv_weight;      // [3D, D]
  at::Tensor qkv_bias;        // [3D], or undefined
  at::Tensor q_bias, v_bias;  // [D] each, or undefined; never beside qkv_bias
  Linear out, fc1, fc2;
  int64_t heads = 1;
  bool tanh_gelu = false;

  // x [B, N, D] -> [B, N, D]. `keep` is undefined, or [2, B]: what the two branches of each clip
  // are multiplied by (drop-path). With `first` > 0 only the tokens from there on are returned, as
  // [B, N - first, D]; those before give keys and values alone, and the rest is not computed.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& keep, const Rotation& rotation,
                     int64_t first = 0) const;
};

// Declares a block's parameters; `index` is its number in the flat buffers.
Block declare_block(Parameters& parameters, const std::string& prefix, int index,
                    const BlockNames& names, const BlockShape& shape);

// fc2(gelu(fc1(x))).
at::Tensor mlp(const Linear& fc1, const Linear& fc2, bool tanh_gelu, const at::Tensor& x);

}  // namespace keiko::model
