// What every vision transformer here starts from: sizes, patches, positions, linear and norm.
//
// Plain structs of tensors and functions on them: every module is a few parameters and a forward().
// Shapes: B clips, T frames, N tokens, D width, P values in a patch.

#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "config/binder.h"
#include "model/parameters.h"

namespace keiko::model {

// ImageNet statistics of RGB in [0, 1], rounded to float32 as every published recipe has them.
inline constexpr float kImageNetMean[3] = {0.485f, 0.456f, 0.406f};
inline constexpr float kImageNetStd[3] = {0.229f, 0.224f, 0.225f};

// Whose encoder it is: decides which positions there are, and the heads of "giant".
enum class Family { kVideoMae, kVJepa2 };

struct VitOptions {
  // tiny, small, base, large, huge, giant, gigantic, or custom: then the next three.
  std::string model = "base";
  int64_t width = 768, depth = 12, heads = 12;
  double mlp_ratio = 4;
  int64_t patch_size = 16;   // pixels
  int64_t tubelet_size = 2;  // frames
  // VideoMAE: "sinusoid" or "learned". V-JEPA: "rope" (tiled, as the published V-JEPA 2 weights
  // need it) or "rope_interleaved" (V-JEPA 2.1).
  std::string positions = "sinusoid";
  double layer_norm_eps = 1e-6;
  // Read from published config.json files only, no recipe keys:
  bool qkv_bias = true;    // learned biases in attention (VideoMAE: of query and value alone)
  bool tanh_gelu = false;  // hidden_act gelu_pytorch_tanh: the approximation

  // Binds the keys into the present map and fills width, depth, heads and mlp_ratio from `model`.
  void bind(config::Binder& b, Family family);
  int64_t mlp_width() const { return int64_t(double(width) * mlp_ratio); }
};

// The name that `vit`'s width, depth, heads and MLP have as objective.model, or "custom".
std::string size_name(const VitOptions& vit, Family family);

// The mlp_ratio whose mlp_width() is exactly `mlp_width`.
double mlp_ratio_of(int64_t mlp_width, int64_t width);

// Tokens of a clip and the size of their patches.
struct TokenGrid {
  int64_t times = 0, rows = 0, columns = 0;  // tokens along each axis
  int64_t tubelet_size = 0, patch_size = 0;

  int64_t count() const { return times * rows * columns; }
  int64_t patch_values() const { return 3 * tubelet_size * patch_size * patch_size; }
};

// Throws Error(kUsage) when num_frames or size is not a whole number of tubelets or patches.
TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t size);
// The same for frames that are not square. Throws Error(kData).
TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t height, int64_t width);

// [B, 3, T, H, W] -> [B, N, P], any dtype. Token (time * rows + row) * columns + column; values in
// the order channel, frame, row, column, as a Conv3d weight has them.
at::Tensor patchify(const at::Tensor& video, const TokenGrid& grid);
// The inverse: [B, N, P] -> [B, 3, T, H, W].
at::Tensor unpatchify(const at::Tensor& patches, const TokenGrid& grid);
// Indices of all tokens of each clip, int64 [clips, N].
at::Tensor all_tokens(int64_t clips, const TokenGrid& grid, at::Device device = at::kCPU);
// Rows `ids` [B, K] (int64) of `tokens` [B, N, C] -> [B, K, C].
at::Tensor gather_tokens(const at::Tensor& tokens, const at::Tensor& ids);
// `values` (kImageNetMean or kImageNetStd) as a column [3, 1], made where `like` is, in its dtype.
at::Tensor by_channel(const float (&values)[3], const at::Tensor& like);
// uint8 patches -> (x / 255 - mean) / std in `dtype`.
at::Tensor normalise_patches(const at::Tensor& patches, const TokenGrid& grid,
                             at::ScalarType dtype);

// VideoMAE's table over the flattened token index: sin at even, cos at odd channels, angle
// p / 10000^(2 floor(j/2) / D); computed in double, rounded once to float32. [1, n, width].
at::Tensor sinusoid_table(int64_t n, int64_t width, at::ScalarType dtype);

// Learned positions [1, N, D] of the clips of `from` for those of `to`: trilinear over time, row
// and column between the tokens' centres, as torch.nn.functional.interpolate(mode="trilinear",
// align_corners=False) has it. Throws Error(kData) when `table` does not have from.count() rows.
at::Tensor interpolate_positions(const at::Tensor& table, const TokenGrid& from,
                                 const TokenGrid& to);

struct Linear {
  at::Tensor weight, bias;  // bias may be undefined
  at::Tensor forward(const at::Tensor& x) const;
};

struct LayerNorm {
  at::Tensor weight, bias;
  double eps = 1e-6;
  at::Tensor forward(const at::Tensor& x) const;
};

Linear declare_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                      int64_t out, bool has_bias = true);
// `init` and `scale` are the weight's.
Linear declare_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                      int64_t out, Init init, double scale);
LayerNorm declare_norm(Parameters& parameters, const std::string& name, int block, int64_t width,
                       double eps);
// The patch embedding: a Conv3d whose stride is its kernel, hence one product with flattened
// patches. Its weight is published as [D, 3, tubelet, patch, patch].
Linear declare_patch_embedding(Parameters& parameters, const std::string& name,
                               const VitOptions& options, Init init);
// `keep` [depth, 2, B] (drop-path) at one block; undefined stays undefined.
at::Tensor keep_of_block(const at::Tensor& keep, int64_t block);

// Multiply-accumulates times two of one clip's forward pass through `depth` blocks on n tokens.
double blocks_flops(int64_t depth, int64_t n, int64_t width, int64_t mlp_width);
// Numbers that one clip's forward pass through `depth` blocks on n tokens keeps for the backward
// pass, per token and block: eight times the width (input, norm, query, key, value, attended, sum,
// norm; the scores of attention are computed anew) and twice the MLP's (before and after the GELU).
double blocks_activations(int64_t depth, int64_t n, int64_t width, int64_t mlp_width);

}  // namespace keiko::model
