// Patches and reconstruction targets straight from uint8 clips: only the tokens that are asked for,
// in one pass over their pixels.
//
// patchify() and the functions after it in vit.h and videomae.h say the same in tensor operations;
// there a clip is turned into patches as a whole, then copied again for every step of the formula.
// On the CPU kernels of this room do it, elsewhere those of device_kernels.h, or patch_formulas.h
// where there are none. All tensors are on one device, and results are there.

#pragma once
#include <ATen/core/Tensor.h>

#include "model/vit.h"

namespace keiko::model {

// Patches `ids` [B, K] (int64) of `video` uint8 [B, 3, T, H, W] as the encoders take them:
// (x / 255 - mean) / std, [B, K, P] in the order channel, frame, row, column. The same numbers as
// normalise_patches(gather_tokens(patchify(video), ids)). `dtype`: kFloat or kDouble.
at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        at::ScalarType dtype);

enum class TargetUnit {
  kUnit,      // [0, 1]
  kImageNet,  // minus ImageNet's mean, over its standard deviation
  kPatch,     // minus the mean, over sqrt(unbiased variance) + 1e-6, of each patch and channel
};

// What a masked autoencoder has to say of tokens `ids` [B, M]: [B, M, P] in the order frame, row,
// column, channel. As videomae_target; kPatch takes its sums in whole numbers.
at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        TargetUnit unit, at::ScalarType dtype);

// Mean squared difference of each token between `predicted` [B, M, P] (kFloat or kDouble) and
// take_targets(), [B, M]; differentiable (once) by `predicted`. Targets are made as they are
// needed, in either pass, and never kept. The same bits for any number of threads.
at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                         const at::Tensor& ids, const TokenGrid& grid, TargetUnit unit);

}  // namespace keiko::model
