#include "objective/mixup.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "model/upload.h"

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

MixTensors upload_mixes(const std::vector<Mix>& mixes, const std::vector<int64_t>& partners,
                        at::Device device) {
  const int64_t b = int64_t(mixes.size());
  at::Tensor both = at::empty({2, b}, at::kDouble);  // of one dtype: one copy; indices are exact
  double* out = both.data_ptr<double>();
  for (int64_t i = 0; i < b; ++i) {
    out[i] = mixes[size_t(i)].share;
    out[b + i] = double(partners[size_t(i)]);
  }
  both = model::upload(both, device);
  return {both[0], both[1].to(at::kLong)};
}

at::Tensor cut_clips(const at::Tensor& video, const std::vector<Mix>& mixes,
                     const std::vector<int64_t>& partners) {
  if (std::none_of(mixes.begin(), mixes.end(), [](const Mix& mix) { return mix.is_cut; }))
    return video;
  at::Tensor out = video.clone();
  for (size_t i = 0; i < mixes.size(); ++i) {
    const Mix& mix = mixes[i];
    if (!mix.is_cut) continue;
    const auto box = [&](const at::Tensor& clip) {
      return clip.slice(2, mix.top, mix.bottom).slice(3, mix.left, mix.right);
    };
    box(out[int64_t(i)]).copy_(box(video[partners[i]]));
  }
  return out;
}

at::Tensor mixed_targets(const at::Tensor& labels, int64_t classes, double smoothing,
                         const std::vector<Mix>& mixes, const std::vector<int64_t>& partners,
                         at::ScalarType dtype) {
  const auto options = at::TensorOptions(at::kDouble).device(labels.device());
  at::Tensor target = at::full({labels.size(0), classes}, smoothing / double(classes), options);
  const at::Tensor own = labels.unsqueeze(1);
  if (mixes.empty()) {
    target.scatter_add_(1, own, at::full(own.sizes(), 1 - smoothing, options));
    return target.to(dtype);
  }
  const MixTensors mix = upload_mixes(mixes, partners, labels.device());
  const at::Tensor share = mix.share.unsqueeze(1);
  target.scatter_add_(1, own, (1 - smoothing) * share);
  target.scatter_add_(1, own.index_select(0, mix.partners), (1 - smoothing) * (1 - share));
  return target.to(dtype);
}

at::Tensor mixed_columns(const at::Tensor& values, const std::vector<Mix>& mixes,
                         const std::vector<int64_t>& partners) {
  const at::Tensor own = values.to(at::kDouble);
  if (mixes.empty()) return own;
  const MixTensors mix = upload_mixes(mixes, partners, values.device());
  const at::Tensor share = mix.share.unsqueeze(1);
  const at::Tensor other = own.index_select(0, mix.partners);
  // A share of nothing is nothing, also of what is not known.
  return (own * share).masked_fill(share.le(0), 0) +
         (other * (1 - share)).masked_fill(share.ge(1), 0);
}

}  // namespace keiko::objective
