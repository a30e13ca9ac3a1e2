#include "model/published_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include "base/error.h"

namespace keiko::model {

// One of them is set.
struct PublishedModel::Modules {
  std::unique_ptr<VideoMaeEncoder> videomae;
  std::unique_ptr<VideoMaeClassifier> videomae_classifier;
  std::unique_ptr<VJepa2Encoder> vjepa2;
  std::unique_ptr<VJepa2Classifier> vjepa2_classifier;
};

PublishedModel::PublishedModel(const PublishedConfig& c, int64_t classes, at::ScalarType dtype)
    : config_(c), parameters_(dtype), modules_(std::make_unique<Modules>()) {
  Modules& m = *modules_;
  if (c.kind == PublishedKind::kVJepa2)
    m.vjepa2 = std::make_unique<VJepa2Encoder>(parameters_, c.vit, c.side(), "");
  else if (c.kind == PublishedKind::kVJepa2Classifier)
    m.vjepa2_classifier =
        std::make_unique<VJepa2Classifier>(parameters_, c.vit, c.side(), c.pooler, classes);
  else {
    const TokenGrid grid = make_grid(c.vit, c.num_frames, c.height, c.width);
    if (c.kind == PublishedKind::kVideoMaeClassifier)
      m.videomae_classifier = std::make_unique<VideoMaeClassifier>(
          parameters_, c.vit, grid, VideoMaeHeadOptions{classes, c.mean_pooling});
    else
      m.videomae = std::make_unique<VideoMaeEncoder>(parameters_, c.vit, grid, !c.mean_pooling);
  }
  parameters_.allocate(0, /*trained=*/false);
}

PublishedModel::~PublishedModel() = default;

PublishedModel::Output PublishedModel::forward(const at::Tensor& video) const {
  const c10::NoGradGuard no_grad;
  const PublishedConfig& c = config_;
  if (video.dim() != 5 || video.scalar_type() != at::kByte || video.size(1) != 3 ||
      video.size(3) != c.height || video.size(4) != c.width ||
      (!c.is_vjepa2() && video.size(2) != c.num_frames))
    fail(ErrorKind::kData,
         "a clip of shape [{}] ({}), but the model takes uint8 [clips, 3, {}, {}, {}]",
         fmt::join(video.sizes(), ", "), at::toString(video.scalar_type()),
         c.is_vjepa2() ? "frames" : std::to_string(c.num_frames), c.height, c.width);
  const TokenGrid grid = make_grid(c.vit, video.size(2), c.height, c.width);
  const at::Tensor patches = normalise_patches(patchify(video, grid), grid, parameters_.dtype());
  const at::Tensor ids = all_tokens(video.size(0), grid, video.device());
  const BlockRunner runner;
  const Modules& m = *modules_;
  if (m.videomae) return {m.videomae->forward(patches, ids, {}, runner), {}};
  if (m.vjepa2) return {m.vjepa2->forward(patches, ids, {}, runner), {}};
  if (m.videomae_classifier) {
    const at::Tensor tokens = m.videomae_classifier->encoder().forward(patches, ids, {}, runner);
    return {tokens, m.videomae_classifier->classify(m.videomae_classifier->pool(tokens))};
  }
  const at::Tensor tokens = m.vjepa2_classifier->encoder().forward(patches, ids, {}, runner);
  return {tokens,
          m.vjepa2_classifier->classify(m.vjepa2_classifier->pooler().forward(tokens, runner))};
}

}  // namespace keiko::model
