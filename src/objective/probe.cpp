#include "objective/probe.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "base/error.h"
#include "objective/classification.h"

namespace keiko::objective {
namespace {

class Probe : public Objective {
 public:
  Probe(const ProbeOptions& options, const ObjectiveContext& context)
      : options_(options),
        class_names_(context.class_names),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        frozen_(context.dtype),
        parameters_(context.dtype),
        encoder_(frozen_, options.vit, grid_, false),
        ids_(at::arange(grid_.count(), at::kLong).unsqueeze(0)) {
    frozen_.allocate(context.seed);
    head_ = model::declare_linear(parameters_, "classifier", 0, options.vit.width,
                                  int64_t(class_names_.size()));
    parameters_.allocate(context.seed);
    mean_ = at::zeros({options.vit.width}, context.dtype);
    std_ = at::ones({options.vit.width}, context.dtype);
    sum_ = at::zeros({options.vit.width}, at::kDouble);
    squares_ = at::zeros({options.vit.width}, at::kDouble);
  }

  model::Parameters& parameters() override { return parameters_; }
  bool needs_label() const override { return true; }

  LossSums loss(const MicroBatch& batch, const model::BlockRunner&) override {
    const at::Tensor logits = head_.forward(features(batch));
    return {at::cross_entropy_loss(logits, batch.label, {}, at::Reduction::Sum),
            logits.detach().argmax(1).eq(batch.label).sum().to(at::kDouble).view({1})};
  }
  std::vector<std::string> metric_names() const override { return {"top1"}; }
  std::vector<std::string> evaluation_columns() const override { return classification_columns(); }
  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    return classification_rows(head_.forward(features(batch)), batch.label);
  }
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    return summarize_classification(rows, class_names_);
  }

  std::vector<model::NamedTensor> weights() override {
    auto all = frozen_.published();
    for (auto& entry : parameters_.published()) all.push_back(std::move(entry));
    for (auto& entry : statistics()) all.push_back(std::move(entry));
    return all;
  }
  model::Parameters::Unmatched load_weights(
      const std::vector<model::NamedTensor>& tensors) override {
    const auto encoder = frozen_.load(tensors);
    auto head = parameters_.load(encoder_rest(tensors, encoder.unused));
    head.missing.insert(head.missing.end(), encoder.missing.begin(), encoder.missing.end());
    for (const auto& [name, statistic] : statistics()) {
      const auto found = std::find_if(tensors.begin(), tensors.end(),
                                      [&](const auto& entry) { return entry.first == name; });
      if (found == tensors.end() || found->second.sizes() != statistic.sizes()) {
        head.missing.push_back(name);
        continue;
      }
      at::Tensor(statistic).copy_(found->second);
      std::erase(head.unused, name);
    }
    return head;
  }
  std::string start_from(const std::vector<model::NamedTensor>& tensors) override {
    const auto unmatched = frozen_.load(tensors);
    refuse_lost_positions(unmatched.unused);
    if (!unmatched.missing.empty())
      fail(ErrorKind::kData, "init_from: the checkpoint has no {}", unmatched.missing[0]);
    return fmt::format("frozen encoder taken; {} tensors of the checkpoint unused",
                       unmatched.unused.size());
  }
  std::vector<model::NamedTensor> statistics() override {
    return {{kMeanName, mean_}, {kStdName, std_}};
  }
  int64_t calibration_clips() const override { return 256; }
  void calibrate(const MicroBatch& batch) override {
    const at::Tensor tokens = mean_tokens(batch).to(at::kDouble);
    seen_ += tokens.size(0);
    sum_ += tokens.sum(0);
    squares_ += tokens.square().sum(0);
    const at::Tensor mean = sum_ / double(seen_);
    mean_.copy_(mean);
    std_.copy_((squares_ / double(seen_) - mean.square()).clamp_min(1e-12).sqrt());
  }
  nlohmann::ordered_json config() const override {
    auto c = model::videomae_config(options_.vit, nullptr, grid_, false, class_names_);
    c["architectures"] = {
        "KeikoLinearProbe"};  // features without fc_norm: not a transformers class
    return c;
  }
  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    return 2.0 * double(n) * double(grid_.patch_values()) * double(v.width) +
           model::blocks_flops(v.depth, n, v.width, v.mlp_width());
  }

 private:
  static std::vector<model::NamedTensor> encoder_rest(
      const std::vector<model::NamedTensor>& tensors, const std::vector<std::string>& names) {
    std::vector<model::NamedTensor> rest;
    for (const auto& entry : tensors)
      if (std::find(names.begin(), names.end(), entry.first) != names.end()) rest.push_back(entry);
    return rest;
  }

  at::Tensor mean_tokens(const MicroBatch& batch) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor patches =
        model::normalise_patches(model::patchify(batch.video, grid_), grid_, parameters_.dtype());
    return encoder_.forward(patches, ids_.expand({patches.size(0), -1}), {}, model::BlockRunner())
        .mean(1);
  }
  // Each feature standardised over the data: what clips have in common would otherwise drown what
  // tells them apart, and one learning rate would not suit every encoder. Statistics of the batch
  // (a BatchNorm, as probes often have) would make a clip's loss depend on its neighbours.
  at::Tensor features(const MicroBatch& batch) const { return (mean_tokens(batch) - mean_) / std_; }

  static constexpr const char* kMeanName = "probe.feature_mean";
  static constexpr const char* kStdName = "probe.feature_std";

  ProbeOptions options_;
  std::vector<std::string> class_names_;
  model::TokenGrid grid_;
  model::Parameters frozen_, parameters_;
  model::VideoMaeEncoder encoder_;
  at::Tensor ids_;
  model::Linear head_;
  at::Tensor mean_, std_;     // [width], of the mean tokens
  at::Tensor sum_, squares_;  // float64, while calibrating
  int64_t seen_ = 0;
};

}  // namespace

void ProbeOptions::bind(config::Binder& b) { vit.bind(b, model::Family::kVideoMae); }

std::unique_ptr<Objective> ProbeOptions::make(const ObjectiveContext& context) const {
  if (context.class_names.empty())
    fail(ErrorKind::kUsage,
         "the data has no labels, which a probe needs; put each class into a folder "
         "of its own, or index a list of `path label` lines");
  return std::make_unique<Probe>(*this, context);
}

}  // namespace keiko::objective
