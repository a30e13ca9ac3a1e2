#include "model/vit.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "model/linear.h"

namespace keiko::model {
namespace {

struct Size {
  const char* name;
  int64_t width, depth, heads;
  double mlp_ratio;
};
// As published: Dosovitskiy et al. 2021 (S to H), Touvron et al. 2021 (tiny), Zhai et al. 2022
// (giant, gigantic; the MLP of giant has 6144 channels, of gigantic 8192).
constexpr Size kSizes[] = {{"tiny", 192, 12, 3, 4},
                           {"small", 384, 12, 6, 4},
                           {"base", 768, 12, 12, 4},
                           {"large", 1024, 24, 16, 4},
                           {"huge", 1280, 32, 16, 4},
                           {"giant", 1408, 40, 16, 48.0 / 11},
                           {"gigantic", 1664, 48, 26, 64.0 / 13}};
constexpr int64_t kVJepa2GiantHeads = 22;  // V-JEPA 2's giant; VideoMAE v2's has 16

}  // namespace

void VitOptions::bind(config::Binder& b, Family family) {
  std::vector<std::string> models;
  for (const Size& size : kSizes) models.push_back(size.name);
  models.push_back("custom");
  b.choice("model", model, models, "size of the encoder; custom takes width, depth and heads");
  for (const Size& size : kSizes)
    if (b.is_reading() && model == size.name) {
      width = size.width;
      depth = size.depth;
      heads = family == Family::kVJepa2 && model == "giant" ? kVJepa2GiantHeads : size.heads;
      mlp_ratio = size.mlp_ratio;
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
  if (family == Family::kVideoMae)
    b.choice("positions", positions, {"sinusoid", "learned"}, "position embedding");
  else
    b.choice("positions", positions, {"rope", "rope_interleaved"},
             "rope turns pairs as the published V-JEPA 2 weights need it, rope_interleaved as 2.1");
  b.key("layer_norm_eps", layer_norm_eps, "of the blocks' norms").range(0, 1);
}

std::string size_name(const VitOptions& vit, Family family) {
  for (const Size& size : kSizes) {
    const bool is_giant = family == Family::kVJepa2 && std::string(size.name) == "giant";
    if (vit.width == size.width && vit.depth == size.depth &&
        vit.heads == (is_giant ? kVJepa2GiantHeads : size.heads) &&
        vit.mlp_width() == int64_t(double(size.width) * size.mlp_ratio))
      return size.name;
  }
  return "custom";
}

double mlp_ratio_of(int64_t mlp_width, int64_t width) {
  // Half a channel more, so that rounding down in mlp_width() finds the number again.
  const double exact = double(mlp_width) / double(width);
  return int64_t(double(width) * exact) == mlp_width ? exact
                                                     : (double(mlp_width) + 0.5) / double(width);
}

TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t size) {
  const auto around = [](int64_t value, int64_t unit) {
    return fmt::format("use {} or {}", std::max(unit, value / unit * unit),
                       (value / unit + 1) * unit);
  };
  if (num_frames % vit.tubelet_size != 0)
    fail(ErrorKind::kUsage,
         "clip.num_frames = {} is not a multiple of objective.tubelet_size = {}; {}", num_frames,
         vit.tubelet_size, around(num_frames, vit.tubelet_size));
  if (size % vit.patch_size != 0)
    fail(ErrorKind::kUsage, "clip.size = {} is not a multiple of objective.patch_size = {}; {}",
         size, vit.patch_size, around(size, vit.patch_size));
  return make_grid(vit, num_frames, size, size);
}

TokenGrid make_grid(const VitOptions& vit, int64_t num_frames, int64_t height, int64_t width) {
  if (num_frames % vit.tubelet_size != 0 || height % vit.patch_size != 0 ||
      width % vit.patch_size != 0)
    fail(ErrorKind::kData,
         "{} frames of {}x{} are not a whole number of patches of {} frames of {}x{}", num_frames,
         height, width, vit.tubelet_size, vit.patch_size, vit.patch_size);
  return {num_frames / vit.tubelet_size, height / vit.patch_size, width / vit.patch_size,
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

at::Tensor all_tokens(int64_t clips, const TokenGrid& grid, at::Device device) {
  return at::arange(grid.count(), at::TensorOptions(at::kLong).device(device))
      .unsqueeze(0)
      .expand({clips, -1});
}

at::Tensor gather_tokens(const at::Tensor& tokens, const at::Tensor& ids) {
  const int64_t b = tokens.size(0), n = tokens.size(1);
  // Rows of one long table: index_select copies whole rows, where gather would copy numbers.
  const at::Tensor starts = at::arange(b, ids.options()).mul_(n).unsqueeze(1);
  return tokens.reshape({b * n, tokens.size(2)})
      .index_select(0, ids.add(starts).flatten())
      .view({b, ids.size(1), tokens.size(2)});
}

at::Tensor by_channel(const float (&values)[3], const at::Tensor& like) {
  // Filled there: a copy from the host would make it wait.
  at::Tensor column = at::empty({3, 1}, like.options());
  for (int64_t channel = 0; channel < 3; ++channel) column[channel].fill_(values[channel]);
  return column;
}

at::Tensor normalise_patches(const at::Tensor& patches, const TokenGrid& g, at::ScalarType dtype) {
  const auto shape = patches.sizes().vec();
  at::Tensor x = patches.to(dtype).div_(255).view({shape[0], shape[1], 3, g.patch_values() / 3});
  return x.sub_(by_channel(kImageNetMean, x)).div_(by_channel(kImageNetStd, x)).view(shape);
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

at::Tensor interpolate_positions(const at::Tensor& table, const TokenGrid& from,
                                 const TokenGrid& to) {
  if (table.dim() != 3 || table.size(0) != 1 || table.size(1) != from.count())
    fail(ErrorKind::kData, "the position table has {} rows, but {} times {}x{} tokens need {}",
         table.dim() == 3 ? table.size(1) : 0, from.times, from.rows, from.columns, from.count());
  const int64_t width = table.size(2);
  const at::Tensor volume =
      table.view({1, from.times, from.rows, from.columns, width}).permute({0, 4, 1, 2, 3});
  return at::upsample_trilinear3d(volume.contiguous(), {to.times, to.rows, to.columns}, false)
      .permute({0, 2, 3, 4, 1})
      .reshape({1, to.count(), width});
}

at::Tensor Linear::forward(const at::Tensor& x) const { return apply_linear(x, weight, bias); }

at::Tensor LayerNorm::forward(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
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

Linear declare_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                      int64_t out, Init init, double scale) {
  Linear linear;
  linear.weight = parameters.declare({name + ".weight", {out, in}, block, true, init, scale});
  linear.bias = parameters.declare({name + ".bias", {out}, block, false, Init::kZeros});
  return linear;
}

Linear declare_patch_embedding(Parameters& parameters, const std::string& name, const VitOptions& o,
                               Init init) {
  Linear embed;
  embed.weight = parameters.declare(
      {name + ".weight", {o.width, 3, o.tubelet_size, o.patch_size, o.patch_size}, 0, true, init});
  embed.bias = parameters.declare({name + ".bias", {o.width}, 0, false, Init::kZeros});
  return embed;
}

at::Tensor keep_of_block(const at::Tensor& keep, int64_t block) {
  return keep.defined() ? keep.select(0, block) : at::Tensor();
}

double blocks_flops(int64_t depth, int64_t n, int64_t width, int64_t mlp_width) {
  const double linear = 2.0 * double(n) * double(width) * double(4 * width + 2 * mlp_width);
  const double attention = 4.0 * double(n) * double(n) * double(width);
  return double(depth) * (linear + attention);
}

double blocks_activations(int64_t depth, int64_t n, int64_t width, int64_t mlp_width) {
  return double(depth) * double(n) * double(8 * width + 2 * mlp_width);
}

}  // namespace keiko::model
