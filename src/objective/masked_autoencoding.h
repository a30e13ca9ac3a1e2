// Masked autoencoding as in VideoMAE: hide most tokens, predict their pixels.

#pragma once
#include "model/videomae.h"
#include "objective/masks.h"
#include "objective/objective.h"

namespace keiko::objective {

struct MaskedAutoencodingOptions : ObjectiveOptions {
  model::VitOptions vit;
  model::DecoderOptions decoder;  // keys left out: the published ones
  MaskRule mask;
  DecoderMaskRule decoder_mask;
  bool norm_pix_loss = true;
  std::string pixel_target = "unit";  // without norm_pix_loss: "unit" [0, 1], or "imagenet" units

  void bind(config::Binder& b) override;
  std::unique_ptr<Objective> make(const ObjectiveContext& context) const override;
};

}  // namespace keiko::objective
