// Joint-embedding prediction as in V-JEPA 2: from part of a clip, predict what a slow copy of the
// encoder makes of the rest.
//
// The teacher, an exponential moving average of the encoder, sees the whole clip; its tokens
// through a LayerNorm without parameters are the target. The encoder sees only the context of each
// mask, the predictor says the hidden tokens; the loss is the mean absolute difference, averaged
// over masks.

#pragma once
#include "model/vjepa2.h"
#include "objective/masks.h"
#include "objective/objective.h"

namespace keiko::objective {

struct JointEmbeddingOptions : ObjectiveOptions {
  model::VitOptions vit;
  model::PredictorOptions predictor;
  std::vector<BlockMaskRule> masks = {{8, 0.15}, {2, 0.7}};
  std::string mask_cut = "random";
  std::vector<double> ema = {0.99925,
                             0.99925};  // momentum at the first and last step, a line between
  // V-JEPA 2.1: the context tokens' loss too, weighted by this over the square root of each token's
  // distance (in tokens) to the nearest target; risen to in a straight line between two steps.
  double context_loss = 0;
  std::vector<int64_t> context_loss_warmup = {15000, 30000};

  JointEmbeddingOptions() { vit.positions = "rope"; }
  void bind(config::Binder& b) override;
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

}  // namespace keiko::objective
