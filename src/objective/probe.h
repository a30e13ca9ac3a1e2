// A linear probe: the encoder stays as it is, and a linear classifier learns on its mean features.
//
// Random encoders do surprisingly well under a probe, so a probe's figure means something only
// beside the same probe on a random-init encoder (leave out init_from).

#pragma once
#include "model/videomae.h"
#include "objective/objective.h"

namespace keiko::objective {

struct ProbeOptions : ObjectiveOptions {
  model::VitOptions vit;

  void bind(config::Binder& b) override;
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

}  // namespace keiko::objective
