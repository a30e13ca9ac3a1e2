#include "objective/mixup.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace keiko::objective {
namespace {

// Marsaglia and Tsang 2000; below 1 with their boost.
double draw_gamma(double shape, Rng& rng) {
  if (shape < 1) return draw_gamma(shape + 1, rng) * std::pow(1 - rng.uniform(), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = rng.normal(), v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    const double u = 1 - rng.uniform();  // (0, 1]
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

double draw_beta(double alpha, Rng& rng) {
  const double a = draw_gamma(alpha, rng), b = draw_gamma(alpha, rng);
  return a + b > 0 ? a / (a + b) : 0.5;
}

}  // namespace

void MixupOptions::bind(config::Binder& b) {
  b.key("mixup", mixup, "alpha of Mixup; 0 is off").range(0, 100);
  b.key("cutmix", cutmix, "alpha of CutMix; 0 is off").range(0, 100);
  b.key("mixup_probability", probability, "of mixing a pair of samples at all").range(0, 1);
  b.key("mixup_switch", switch_to_cutmix, "probability of CutMix where both are on").range(0, 1);
}

Mix make_mix(const MixupOptions& o, uint64_t seed, int64_t position, int64_t repeats,
             int64_t height, int64_t width) {
  const int64_t group = position / (2 * repeats), place = position % (2 * repeats);
  Mix mix;
  mix.partner = group * 2 * repeats + (place + repeats) % (2 * repeats);
  if (!o.is_on()) return mix;
  // Both partners draw the same numbers: those of the pair's first position.
  Rng rng(seed, Stream::kMixup, uint64_t(std::min(position, mix.partner)));
  if (rng.uniform() >= o.probability) return mix;
  mix.is_cut = o.cutmix > 0 && (o.mixup == 0 || rng.uniform() < o.switch_to_cutmix);
  mix.share = draw_beta(mix.is_cut ? o.cutmix : o.mixup, rng);
  if (!mix.is_cut) return mix;
  // A box of 1 - share of the area around any centre; what falls outside is cut off, and the share
  // becomes the true one.
  const double side = std::sqrt(1 - mix.share);
  const auto span = [&](int64_t size, int64_t& from, int64_t& to) {
    const int64_t half = int64_t(double(size) * side) / 2;
    const int64_t centre = int64_t(rng.below(uint64_t(size)));
    from = std::clamp<int64_t>(centre - half, 0, size);
    to = std::clamp<int64_t>(centre + half, 0, size);
  };
  span(height, mix.top, mix.bottom);
  span(width, mix.left, mix.right);
  mix.share = 1 - double((mix.bottom - mix.top) * (mix.right - mix.left)) / double(height * width);
  return mix;
}

at::Tensor pack_mixes(const std::vector<Mix>& mixes, const std::vector<int64_t>& partners) {
  if (mixes.empty()) return {};
  const int64_t b = int64_t(mixes.size());
  at::Tensor packed = at::empty({7, b}, at::kDouble);  // whole numbers are exact
  auto out = packed.accessor<double, 2>();
  for (int64_t i = 0; i < b; ++i) {
    const Mix& mix = mixes[size_t(i)];
    const double values[] = {
        mix.share,        double(partners[size_t(i)]), mix.is_cut ? 1.0 : 0.0, double(mix.top),
        double(mix.left), double(mix.bottom),          double(mix.right)};
    for (int64_t row = 0; row < 7; ++row) out[row][i] = values[row];
  }
  return packed;
}

MixTensors unpack_mixes(const at::Tensor& packed) {
  if (!packed.defined()) return {};
  return {packed[0], packed[1].to(at::kLong), packed[2].ne(0), packed.narrow(0, 3, 4).t()};
}

at::Tensor cut_clips(const at::Tensor& video, const MixTensors& mix) {
  // Flags of every pixel instead of slices: which pixels these are, the host need not know.
  const int64_t height = video.size(3), width = video.size(4);
  const auto places = at::TensorOptions(at::kDouble).device(video.device());
  const auto edge = [&](int64_t i) { return mix.box.select(1, i).view({-1, 1}); };
  const at::Tensor rows = at::arange(height, places), columns = at::arange(width, places);
  const at::Tensor in_rows = rows.ge(edge(0)).logical_and(rows.lt(edge(2)));
  const at::Tensor in_columns = columns.ge(edge(1)).logical_and(columns.lt(edge(3)));
  const at::Tensor is_filled =
      in_rows.view({-1, 1, 1, height, 1}).logical_and(in_columns.view({-1, 1, 1, 1, width}));
  return at::where(is_filled, video.index_select(0, mix.partners), video);
}

at::Tensor mixed_targets(const at::Tensor& labels, int64_t classes, double smoothing,
                         const MixTensors& mix, at::ScalarType dtype) {
  const auto options = at::TensorOptions(at::kDouble).device(labels.device());
  at::Tensor target = at::full({labels.size(0), classes}, smoothing / double(classes), options);
  const at::Tensor own = labels.unsqueeze(1);
  if (!mix.is_mixed()) {
    target.scatter_add_(1, own, at::full(own.sizes(), 1 - smoothing, options));
    return target.to(dtype);
  }
  const at::Tensor share = mix.share.unsqueeze(1);
  target.scatter_add_(1, own, (1 - smoothing) * share);
  target.scatter_add_(1, own.index_select(0, mix.partners), (1 - smoothing) * (1 - share));
  return target.to(dtype);
}

at::Tensor mixed_columns(const at::Tensor& values, const MixTensors& mix) {
  const at::Tensor own = values.to(at::kDouble);
  if (!mix.is_mixed()) return own;
  const at::Tensor share = mix.share.unsqueeze(1);
  const at::Tensor other = own.index_select(0, mix.partners);
  // A share of nothing is nothing, also of what is not known.
  return (own * share).masked_fill(share.le(0), 0) +
         (other * (1 - share)).masked_fill(share.ge(1), 0);
}

}  // namespace keiko::objective
