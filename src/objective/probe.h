// Probes: the encoder stays as it is, and small heads learn on its features.
//
// A linear probe sees the mean token, an attentive one all of them through a pooler with a learned
// query (Bardes et al. 2024). Several heads with other learning rates and weight decays train side
// by side on the same features: their losses add up and do not touch each other, as long as
// optimizer.clip_grad, which goes by the norm over all heads, is off. Random encoders do
// surprisingly well under a probe, so a probe's figure means something only beside the same probe
// on a random-init encoder (leave out init_from).

#pragma once
#include "model/videomae.h"
#include "model/vjepa2.h"
#include "objective/objective.h"

namespace keiko::objective {

struct ProbeOptions : ObjectiveOptions {
  std::string backbone = "videomae";  // or "vjepa2"
  model::VitOptions vit;
  std::string pooling = "mean";  // or "attentive"
  int64_t pooler_depth = 3;      // attentive: self-attention blocks before the pooling one
  int64_t pooler_heads = 16;     // attentive: attention heads
  // One head for each pair: multiples of the optimiser's learning rate, and weight decays in place
  // of the optimiser's (empty: the optimiser's).
  std::vector<double> lr_scales = {1};
  std::vector<double> weight_decays;

  void bind(config::Binder& b) override;
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

}  // namespace keiko::objective
