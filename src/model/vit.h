// The vision transformer under VideoMAE: patches, positions, pre-norm blocks.
//
// Plain structs of tensors and functions on them: every module is a few parameters and a forward().
// Shapes: B clips, T frames, N tokens, D width, P values in a patch.

#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "config/binder.h"
#include "model/block_runner.h"
#include "model/parameters.h"

namespace keiko::model {

// ImageNet statistics of RGB in [0, 1], rounded to float32 as every published recipe has them.
inline constexpr float kImageNetMean[3] = {0.485f, 0.456f, 0.406f};
inline constexpr float kImageNetStd[3] = {0.229f, 0.224f, 0.225f};

struct VitOptions {
  std::string model = "base";  // tiny, small, base, large, or custom: then the three below
  int64_t width = 768, depth = 12, heads = 12;
  double mlp_ratio = 4;
  int64_t patch_size = 16;             // pixels
  int64_t tubelet_size = 2;            // frames
  std::string positions = "sinusoid";  // or "learned"
  double layer_norm_eps = 1e-6;

  // Binds the keys into the present map and fills width, depth and heads from `model`.
  void bind(config::Binder& b);
  int64_t mlp_width() const { return int64_t(double(width) * mlp_ratio); }
};

// Tokens of a clip and the size of their patches.
struct TokenGrid {
  int64_t times = 0, rows = 0, columns = 0;  // tokens along each axis
  int64_t tubelet_size = 0, patch_size = 0;

  int64_t count() const { return times * rows * columns; }
  int64_t patch_values() const { return 3 * tubelet_size * patch_size * patch_size; }
};

// Throws Error(kUsage) when num_frames or size is not a whole number of tubelets or patches.
TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t size);

// [B, 3, T, H, W] -> [B, N, P], any dtype. Token (time * rows + row) * columns + column; values in
// the order channel, frame, row, column, as a Conv3d weight has them.
at::Tensor patchify(const at::Tensor& video, const TokenGrid& grid);
// The inverse: [B, N, P] -> [B, 3, T, H, W].
at::Tensor unpatchify(const at::Tensor& patches, const TokenGrid& grid);
// Rows `ids` [B, K] (int64) of `tokens` [B, N, C] -> [B, K, C].
at::Tensor gather_tokens(const at::Tensor& tokens, const at::Tensor& ids);
// uint8 patches -> (x / 255 - mean) / std in `dtype`.
at::Tensor normalise_patches(const at::Tensor& patches, const TokenGrid& grid,
                             at::ScalarType dtype);

// VideoMAE's table over the flattened token index: sin at even, cos at odd channels, angle
// p / 10000^(2 floor(j/2) / D); computed in double, rounded once to float32. [1, n, width].
at::Tensor sinusoid_table(int64_t n, int64_t width, at::ScalarType dtype);

struct Linear {
  at::Tensor weight, bias;  // bias may be undefined
  at::Tensor forward(const at::Tensor& x) const;
};

struct LayerNorm {
  at::Tensor weight, bias;
  double eps = 1e-6;
  at::Tensor forward(const at::Tensor& x) const;
};

// x + attention(norm(x)), then x + mlp(norm(x)). Query, key and value are one product; the key has
// no bias (softmax would cancel it).
struct Block {
  LayerNorm before, after;
  at::Tensor qkv_weight, q_bias, v_bias;
  Linear out, fc1, fc2;
  int64_t heads = 1;

  // `keep` is undefined, or [2, B]: what the two branches of each clip are multiplied by
  // (drop-path).
  at::Tensor forward(const at::Tensor& x, const at::Tensor& keep) const;
};

// Declares a block's parameters under Hugging Face's VideoMAE names, such as
// "videomae.encoder.layer.0". `index` is its number in the flat buffers.
Block declare_block(Parameters& parameters, const std::string& prefix, int index, int64_t width,
                    int64_t mlp_width, int64_t heads, double eps);
Linear declare_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                      int64_t out, bool has_bias = true);
LayerNorm declare_norm(Parameters& parameters, const std::string& name, int block, int64_t width,
                       double eps);

// Multiply-accumulates times two of one clip's forward pass through `depth` blocks on n tokens.
double blocks_flops(int64_t depth, int64_t n, int64_t width, int64_t mlp_width);

}  // namespace keiko::model
