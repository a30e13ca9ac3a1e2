#include "model/vit.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"

namespace keiko::model {
namespace {

struct Size {
  const char* name;
  int64_t width, depth, heads;
};
// Widths, depths and heads as published (Dosovitskiy et al. 2021; Touvron et al. 2021 for tiny).
constexpr Size kSizes[] = {
    {"tiny", 192, 12, 3}, {"small", 384, 12, 6}, {"base", 768, 12, 12}, {"large", 1024, 24, 16}};

}  // namespace

void VitOptions::bind(config::Binder& b) {
  b.choice("model", model, {"tiny", "small", "base", "large", "custom"},
           "size of the encoder; custom takes width, depth and heads");
  for (const Size& size : kSizes)
    if (model == size.name) {
      width = size.width;
      depth = size.depth;
      heads = size.heads;
    }
  const int64_t named[] = {width, depth, heads};
  b.key("width", width, "encoder channels").range(1, 1 << 16);
  b.key("depth", depth, "encoder blocks").range(1, 1024);
  b.key("heads", heads, "attention heads").range(1, 1024);
  if (model != "custom" && (width != named[0] || depth != named[1] || heads != named[2]))
    b.refuse("model", "has its own width, depth and heads; write model: custom to set them");
  if (width % heads != 0) b.refuse("width", fmt::format("is not a multiple of heads = {}", heads));
  b.key("mlp_ratio", mlp_ratio, "hidden channels of the MLP over width").range(0.01, 64);
  b.key("patch_size", patch_size, "pixels").range(1, 256);
  b.key("tubelet_size", tubelet_size, "frames of a token").range(1, 64);
  b.choice("positions", positions, {"sinusoid", "learned"}, "position embedding");
  b.key("layer_norm_eps", layer_norm_eps, "of the blocks' norms").range(0, 1);
}

TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t size) {
  if (num_frames % vit.tubelet_size != 0)
    fail(ErrorKind::kUsage,
         "clip.num_frames = {} is not a multiple of objective.tubelet_size = {}; use {} or {}",
         num_frames, vit.tubelet_size,
         std::max(vit.tubelet_size, num_frames / vit.tubelet_size * vit.tubelet_size),
         (num_frames / vit.tubelet_size + 1) * vit.tubelet_size);
  if (size % vit.patch_size != 0)
    fail(ErrorKind::kUsage,
         "clip.size = {} is not a multiple of objective.patch_size = {}; use {} or {}", size,
         vit.patch_size, std::max(vit.patch_size, size / vit.patch_size * vit.patch_size),
         (size / vit.patch_size + 1) * vit.patch_size);
  return {num_frames / vit.tubelet_size, size / vit.patch_size, size / vit.patch_size,
          vit.tubelet_size, vit.patch_size};
}

at::Tensor patchify(const at::Tensor& video, const TokenGrid& g) {
  const int64_t b = video.size(0);
  return video
      .reshape({b, 3, g.times, g.tubelet_size, g.rows, g.patch_size, g.columns, g.patch_size})
      .permute({0, 2, 4, 6, 1, 3, 5, 7})
      .reshape({b, g.count(), g.patch_values()});
}

at::Tensor unpatchify(const at::Tensor& patches, const TokenGrid& g) {
  const int64_t b = patches.size(0);
  return patches
      .reshape({b, g.times, g.rows, g.columns, 3, g.tubelet_size, g.patch_size, g.patch_size})
      .permute({0, 4, 1, 5, 2, 6, 3, 7})
      .reshape({b, 3, g.times * g.tubelet_size, g.rows * g.patch_size, g.columns * g.patch_size});
}

at::Tensor gather_tokens(const at::Tensor& tokens, const at::Tensor& ids) {
  const int64_t b = tokens.size(0), n = tokens.size(1);
  // Rows of one long table: index_select copies whole rows, where gather would copy numbers.
  const at::Tensor starts = at::arange(b, at::kLong).mul_(n).unsqueeze(1);
  return tokens.reshape({b * n, tokens.size(2)})
      .index_select(0, ids.add(starts).flatten())
      .view({b, ids.size(1), tokens.size(2)});
}

at::Tensor normalise_patches(const at::Tensor& patches, const TokenGrid& g, at::ScalarType dtype) {
  const at::Tensor mean = at::tensor(at::ArrayRef<float>(kImageNetMean, 3)).to(dtype).view({3, 1});
  const at::Tensor std = at::tensor(at::ArrayRef<float>(kImageNetStd, 3)).to(dtype).view({3, 1});
  const auto shape = patches.sizes().vec();
  return patches.to(dtype)
      .div_(255)
      .view({shape[0], shape[1], 3, g.patch_values() / 3})
      .sub_(mean)
      .div_(std)
      .view(shape);
}

at::Tensor sinusoid_table(int64_t n, int64_t width, at::ScalarType dtype) {
  at::Tensor table = at::empty({1, n, width}, at::kDouble);
  double* out = table.data_ptr<double>();
  for (int64_t p = 0; p < n; ++p)
    for (int64_t j = 0; j < width; ++j) {
      const double angle = double(p) / std::pow(10000.0, 2.0 * double(j / 2) / double(width));
      *out++ = j % 2 == 0 ? std::sin(angle) : std::cos(angle);
    }
  return table.to(at::kFloat).to(dtype);
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor LayerNorm::forward(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
}

at::Tensor Block::forward(const at::Tensor& x, const at::Tensor& keep) const {
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2);
  const auto branch = [&](const at::Tensor& y, int64_t which) {
    return keep.defined() ? y * keep.select(0, which).to(y.scalar_type()).view({b, 1, 1}) : y;
  };
  const at::Tensor qkv_bias = at::cat({q_bias, at::zeros_like(q_bias), v_bias});
  const at::Tensor qkv = at::linear(before.forward(x), qkv_weight, qkv_bias)
                             .view({b, n, 3, heads, d / heads})
                             .permute({2, 0, 3, 1, 4});  // [3, B, heads, N, D / heads]
  const at::Tensor attended =
      at::scaled_dot_product_attention(qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2))
          .transpose(1, 2)
          .reshape({b, n, d});
  const at::Tensor y = x + branch(out.forward(attended), 0);
  return y + branch(fc2.forward(at::gelu(fc1.forward(after.forward(y)))), 1);
}

Linear declare_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                      int64_t out, bool has_bias) {
  Linear linear;
  linear.weight = parameters.declare({name + ".weight", {out, in}, block});
  if (has_bias)
    linear.bias = parameters.declare({name + ".bias", {out}, block, false, Init::kZeros});
  return linear;
}

LayerNorm declare_norm(Parameters& parameters, const std::string& name, int block, int64_t width,
                       double eps) {
  LayerNorm norm;
  norm.weight = parameters.declare({name + ".weight", {width}, block, false, Init::kOnes});
  norm.bias = parameters.declare({name + ".bias", {width}, block, false, Init::kZeros});
  norm.eps = eps;
  return norm;
}

Block declare_block(Parameters& parameters, const std::string& prefix, int index, int64_t width,
                    int64_t mlp_width, int64_t heads, double eps) {
  const std::string attention = prefix + ".attention.attention.";
  Block block;
  block.heads = heads;
  block.before = declare_norm(parameters, prefix + ".layernorm_before", index, width, eps);
  block.qkv_weight = parameters.declare(
      {attention + "qkv.weight",
       {3 * width, width},
       index,
       true,
       Init::kXavierUniform,
       0,
       {attention + "query.weight", attention + "key.weight", attention + "value.weight"}});
  block.q_bias = parameters.declare({attention + "q_bias", {width}, index, false, Init::kZeros});
  block.v_bias = parameters.declare({attention + "v_bias", {width}, index, false, Init::kZeros});
  block.out = declare_linear(parameters, prefix + ".attention.output.dense", index, width, width);
  block.after = declare_norm(parameters, prefix + ".layernorm_after", index, width, eps);
  block.fc1 = declare_linear(parameters, prefix + ".intermediate.dense", index, width, mlp_width);
  block.fc2 = declare_linear(parameters, prefix + ".output.dense", index, mlp_width, width);
  return block;
}

double blocks_flops(int64_t depth, int64_t n, int64_t width, int64_t mlp_width) {
  const double linear = 2.0 * double(n) * double(width) * double(4 * width + 2 * mlp_width);
  const double attention = 4.0 * double(n) * double(n) * double(width);
  return double(depth) * (linear + attention);
}

}  // namespace keiko::model
