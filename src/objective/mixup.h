// Mixup and CutMix: each clip is mixed with a partner, and so are their labels (Zhang et al. 2018;
// Yun et al. 2019; both in one as in timm, "pair" mode).
//
// Partners are neighbours in the sample stream, never in a rank's slice: groups of two samples (all
// views of an item count as one sample) come to a rank whole, so that any world size mixes the
// same.

#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "config/binder.h"

namespace keiko::objective {

struct MixupOptions {
  double mixup = 0;               // alpha of the Beta distribution of the share; 0: off
  double cutmix = 0;              // the same for CutMix
  double probability = 1;         // of mixing a pair at all
  double switch_to_cutmix = 0.5;  // where both are on

  void bind(config::Binder& b);
  bool is_on() const { return mixup > 0 || cutmix > 0; }
};

// What one clip is mixed with.
struct Mix {
  int64_t partner = 0;  // its position
  double share = 1;     // of the clip itself in pixels and label; the partner has the rest
  bool is_cut = false;  // CutMix: the partner's pixels fill the box
  int64_t top = 0, left = 0, bottom = 0, right = 0;  // pixels, half open
};

// The mix of the clip at `position`: a function of (seed, pair) that gives both partners the same
// share and box. `repeats`: views of an item in consecutive positions. `height`, `width`: pixels.
Mix make_mix(const MixupOptions& options, uint64_t seed, int64_t position, int64_t repeats,
             int64_t height, int64_t width);

// The mixes of a micro-batch as the device that trains gets them. All undefined: nothing is mixed.
struct MixTensors {
  at::Tensor share;     // float64 [b], of each clip itself
  at::Tensor partners;  // int64 [b], as indices into the batch
  at::Tensor is_cut;    // bool [b]
  at::Tensor box;       // float64 [b, 4]: top, left, bottom, right; zeros without a cut

  bool is_mixed() const { return share.defined(); }
};

// What unpack_mixes() takes: one tensor on the CPU, so that one copy brings it along. `partners`:
// each clip's partner as an index into the batch. Undefined for no mixes.
at::Tensor pack_mixes(const std::vector<Mix>& mixes, const std::vector<int64_t>& partners);
MixTensors unpack_mixes(const at::Tensor& packed);

// CutMix on uint8 clips [b, 3, T, H, W]: a copy with the boxes filled.
at::Tensor cut_clips(const at::Tensor& video, const MixTensors& mix);

// Targets [b, classes], where `labels` (int64 [b], in [0, classes)) are: one-hot labels smoothed as
// torch's cross entropy does (1 - s on the label, s spread over all classes), mixed by share.
at::Tensor mixed_targets(const at::Tensor& labels, int64_t classes, double smoothing,
                         const MixTensors& mix, at::ScalarType dtype);

// `values` [b, columns], mixed by share, float64. A clip knows a column when all that it is mixed
// of does; what is not known is NaN, on both sides.
at::Tensor mixed_columns(const at::Tensor& values, const MixTensors& mix);

}  // namespace keiko::objective
