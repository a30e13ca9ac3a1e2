#include "objective/probe.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "model/patches.h"
#include "objective/classification.h"

namespace keiko::objective {
namespace {

// The encoder of either family over whole clips.
class FrozenEncoder {
 public:
  FrozenEncoder(model::Parameters& parameters, const ProbeOptions& o, const model::TokenGrid& grid)
      : ids_(parameters.declare_table(model::all_tokens(1, grid))) {
    if (o.backbone == "vjepa2")
      vjepa2_.emplace(parameters, o.vit, grid.rows, "");
    else
      videomae_.emplace(parameters, o.vit, grid, false);
  }
  // Normalised patches [B, N, P] -> tokens [B, N, D].
  at::Tensor tokens(const at::Tensor& patches) const {
    const at::Tensor ids = ids_.expand({patches.size(0), -1});
    const model::BlockRunner runner;
    return vjepa2_ ? vjepa2_->forward(patches, ids, {}, runner)
                   : videomae_->forward(patches, ids, {}, runner);
  }

 private:
  std::optional<model::VideoMaeEncoder> videomae_;
  std::optional<model::VJepa2Encoder> vjepa2_;
  at::Tensor ids_;  // [1, N]
};

// What learns: a pooler where there is one, and a linear classifier.
struct Head {
  double lr_scale = 1;
  std::optional<double> weight_decay;
  std::optional<model::AttentivePooler> pooler;
  model::Linear classifier;

  // Tokens [B, N, D], or features [B, D] without a pooler.
  at::Tensor forward(const at::Tensor& x, const model::BlockRunner& runner) const {
    return classifier.forward(pooler ? pooler->forward(x, runner) : x);
  }
};

class Probe : public Objective {
 public:
  Probe(const ProbeOptions& options, const ObjectiveContext& context)
      : options_(options),
        context_(context),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        frozen_(context.dtype),
        parameters_(context.dtype),
        encoder_(frozen_, options, grid_) {
    declare_heads();
    if (context.dry_run) return;
    frozen_.allocate(context.seed, /*trained=*/false);
    parameters_.allocate(context.seed);
    for (auto& buffer : parameters_.buffers()) {
      const Head& head = heads_[size_t(buffer.block / blocks_of_head())];
      buffer.lr_scale = head.lr_scale;
      buffer.weight_decay = head.weight_decay;
    }
    mean_ = at::zeros({options.vit.width}, context.dtype);
    std_ = at::ones({options.vit.width}, context.dtype);
    sum_ = at::zeros({options.vit.width}, at::kDouble);
    squares_ = at::zeros({options.vit.width}, at::kDouble);
  }

  model::Parameters& parameters() override { return parameters_; }
  void move_to(at::Device device) override {
    frozen_.move_to(device);
    parameters_.move_to(device);
    for (at::Tensor* held : {&mean_, &std_, &sum_, &squares_}) *held = held->to(device);
  }
  bool needs_label() const override { return true; }

  LossSums loss(const MicroBatch& batch, const Draws&, const model::BlockRunner& runner) override {
    const at::Tensor x = head_input(batch);
    at::Tensor sum;
    std::vector<at::Tensor> hits;
    for (const Head& head : heads_) {
      const at::Tensor logits = head.forward(x, runner);
      const at::Tensor l = at::cross_entropy_loss(logits, batch.label, {}, at::Reduction::Sum);
      sum = sum.defined() ? sum + l : l;
      hits.push_back(logits.detach().argmax(1).eq(batch.label).sum());
    }
    return {sum, at::stack(hits).to(at::kDouble)};
  }
  std::vector<std::string> metric_names() const override {
    if (heads_.size() == 1) return {"top1"};
    std::vector<std::string> names;
    for (size_t h = 0; h < heads_.size(); ++h) names.push_back(fmt::format("top1_head{}", h));
    return names;
  }

  // The classifier's columns, once for each head.
  std::vector<std::string> evaluation_columns() const override {
    std::vector<std::string> all;
    for (size_t h = 0; h < heads_.size(); ++h)
      for (const std::string& column : classification_columns())
        all.push_back(heads_.size() == 1 ? column : fmt::format("{}_head{}", column, h));
    return all;
  }
  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const at::Tensor x = head_input(batch);
    std::vector<at::Tensor> rows;
    for (const Head& head : heads_)
      rows.push_back(
          classification_rows(head.forward(x, model::BlockRunner()), batch.label, batch.views));
    return at::cat(rows, 1).cpu();
  }

  at::Tensor features(const MicroBatch& batch) override {
    return mean_over_views(tokens(batch), batch.views).cpu();
  }

  // With several heads the one that counts is chosen without the items it is judged by: each half
  // of the items (every other one) with the head that is best on the other half.
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    if (heads_.size() == 1) return summarize_classification(rows, context_.class_names);
    const int64_t columns = int64_t(classification_columns().size());
    const auto of_head = [&](const at::Tensor& some, size_t h) {
      return some.narrow(1, int64_t(h) * columns, columns);
    };
    const auto best_on = [&](const at::Tensor& some) {
      size_t best = 0;
      double most = -1;
      for (size_t h = 0; h < heads_.size(); ++h) {
        const double hits = of_head(some, h).select(1, 1).sum().item<double>();
        if (hits > most) best = h;
        most = std::max(most, hits);
      }
      return best;
    };
    at::Tensor judged;
    const int64_t n = rows.size(0);
    if (n > 1) {
      const at::Tensor even = rows.slice(0, 0, n, 2), odd = rows.slice(0, 1, n, 2);
      judged = at::cat({of_head(even, best_on(odd)), of_head(odd, best_on(even))});
    } else {
      judged = of_head(rows, 0);
    }
    auto out = summarize_classification(judged, context_.class_names);
    out["head_choice"] = "each half of the items by the head that is best on the other half";
    out["best_head"] = best_on(rows);
    for (size_t h = 0; h < heads_.size(); ++h) {
      const auto own = summarize_classification(of_head(rows, h), {});
      nlohmann::ordered_json head = {{"lr_scale", heads_[h].lr_scale}};
      if (heads_[h].weight_decay) head["weight_decay"] = *heads_[h].weight_decay;
      for (const char* key : {"loss", "top1", "top1_low", "top1_high"}) head[key] = own[key];
      out["heads"].push_back(head);
    }
    return out;
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
    restore_statistics(statistics(), tensors, head);
    return head;
  }
  std::string start_from(const Weights& weights) override {
    const auto unmatched =
        frozen_.load(with_vjepa2_prefix(weights.ema.empty() ? weights.model : weights.ema, false));
    refuse_lost_positions(unmatched.unused);
    if (!unmatched.missing.empty())
      fail(ErrorKind::kData, "init_from: the checkpoint has no {}", unmatched.missing[0]);
    return fmt::format("frozen encoder taken{}; {} tensors of the checkpoint unused",
                       weights.ema.empty() ? "" : " (its moving average)", unmatched.unused.size());
  }
  std::vector<model::NamedTensor> statistics() override {
    if (is_attentive()) return {};
    return {{kMeanName, mean_}, {kStdName, std_}};
  }
  int64_t calibration_clips() const override { return is_attentive() ? 0 : 256; }
  void calibrate(const MicroBatch& batch) override {
    const at::Tensor means = tokens(batch).mean(1).to(at::kDouble);
    seen_ += means.size(0);
    sum_ += means.sum(0);
    squares_ += means.square().sum(0);
    const at::Tensor mean = sum_ / double(seen_);
    mean_.copy_(mean);
    std_.copy_((squares_ / double(seen_) - mean.square()).clamp_min(1e-12).sqrt());
  }
  nlohmann::ordered_json config() const override {
    auto c =
        options_.backbone == "vjepa2"
            ? model::vjepa2_config(options_.vit, nullptr, nullptr, context_.size,
                                   context_.num_frames, context_.class_names)
            : model::videomae_config(options_.vit, nullptr, grid_, false, context_.class_names);
    // Not transformers classes: another head on the same encoder.
    c["architectures"] = {is_attentive() ? "KeikoAttentiveProbe" : "KeikoLinearProbe"};
    return c;
  }
  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    double flops = 2.0 * double(n) * double(grid_.patch_values()) * double(v.width) +
                   model::blocks_flops(v.depth, n, v.width, v.mlp_width());
    if (is_attentive())
      flops += 3 * double(heads_.size()) *
               (model::blocks_flops(options_.pooler_depth, n, v.width, 4 * v.width) +
                4.0 * double(n) * double(v.width) * double(v.width));
    return flops;
  }
  std::vector<PartSize> part_sizes() override {
    return {{"encoder", frozen_.count(), false},
            {heads_.size() == 1 ? "head" : fmt::format("{} heads", heads_.size()),
             parameters_.count(), true}};
  }
  double activations_per_clip() const override {
    const auto& v = options_.vit;
    if (!is_attentive()) return double(v.width);
    const int64_t n = grid_.count();
    return double(heads_.size()) *
           (model::blocks_activations(options_.pooler_depth, n, v.width, 4 * v.width) +
            4.0 * double(n * v.width));
  }

 private:
  bool is_attentive() const { return options_.pooling == "attentive"; }
  int blocks_of_head() const { return is_attentive() ? int(options_.pooler_depth) + 2 : 1; }

  void declare_heads() {
    std::vector<std::optional<double>> decays(options_.weight_decays.begin(),
                                              options_.weight_decays.end());
    if (decays.empty()) decays.push_back(std::nullopt);
    const bool is_only = options_.lr_scales.size() * decays.size() == 1;
    for (double lr_scale : options_.lr_scales)
      for (const auto& decay : decays) {
        const std::string prefix = is_only ? "" : fmt::format("head{}.", heads_.size());
        const int first = int(heads_.size()) * blocks_of_head();
        Head head{lr_scale, decay, std::nullopt, {}};
        if (is_attentive())
          head.pooler.emplace(parameters_, prefix + "pooler", first, options_.vit.width,
                              model::PoolerOptions{options_.pooler_depth, options_.pooler_heads,
                                                   options_.vit.layer_norm_eps});
        head.classifier =
            model::declare_linear(parameters_, prefix + "classifier", first + blocks_of_head() - 1,
                                  options_.vit.width, int64_t(context_.class_names.size()));
        heads_.push_back(std::move(head));
      }
  }

  static std::vector<model::NamedTensor> encoder_rest(
      const std::vector<model::NamedTensor>& tensors, const std::vector<std::string>& names) {
    std::vector<model::NamedTensor> rest;
    for (const auto& entry : tensors)
      if (std::find(names.begin(), names.end(), entry.first) != names.end()) rest.push_back(entry);
    return rest;
  }

  at::Tensor tokens(const MicroBatch& batch) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor ids = model::all_tokens(batch.video.size(0), grid_, batch.video.device());
    return encoder_.tokens(model::take_patches(batch.video, ids, grid_, parameters_.dtype()));
  }
  // A linear probe's features are standardised over the data: what clips have in common would
  // otherwise drown what tells them apart, and one learning rate would not suit every encoder.
  // Statistics of the batch (a BatchNorm, as probes often have) would make a clip's loss depend on
  // its neighbours.
  at::Tensor head_input(const MicroBatch& batch) const {
    const at::Tensor all = tokens(batch);
    return is_attentive() ? all : (all.mean(1) - mean_) / std_;
  }

  static constexpr const char* kMeanName = "probe.feature_mean";
  static constexpr const char* kStdName = "probe.feature_std";

  ProbeOptions options_;
  ObjectiveContext context_;
  model::TokenGrid grid_;
  model::Parameters frozen_, parameters_;
  FrozenEncoder encoder_;
  std::vector<Head> heads_;
  at::Tensor mean_, std_;     // [width], of the mean tokens
  at::Tensor sum_, squares_;  // float64, while calibrating
  int64_t seen_ = 0;
};

}  // namespace

void ProbeOptions::bind(config::Binder& b) {
  b.choice("backbone", backbone, {"videomae", "vjepa2"}, "encoder");
  const bool is_vjepa2 = backbone == "vjepa2";
  if (b.is_reading() && is_vjepa2) vit.positions = "rope";
  vit.bind(b, is_vjepa2 ? model::Family::kVJepa2 : model::Family::kVideoMae);
  b.choice("pooling", pooling, {"mean", "attentive"}, "what the linear classifier sees");
  if (pooling == "attentive") {
    b.key("pooler_depth", pooler_depth, "self-attention blocks before the pooling one")
        .range(0, 64);
    b.key("pooler_heads", pooler_heads, "attention heads of the pooler").range(1, 1024);
    if (vit.width % pooler_heads != 0)
      b.refuse("pooler_heads", fmt::format("does not divide width = {}", vit.width));
  }
  b.key("lr_scales", lr_scales, "heads side by side: multiples of the learning rate").range(0, 1e6);
  b.key("weight_decays", weight_decays, "and weight decays; empty is the optimiser's")
      .range(0, 100);
  if (lr_scales.empty()) b.refuse("lr_scales", "must name one or more");
}

std::unique_ptr<Objective> ProbeOptions::make(const ObjectiveContext& context) const {
  if (context.class_names.empty())
    fail(ErrorKind::kUsage,
         "the data has no labels, which a probe needs; put each class into a folder "
         "of its own, or index a list of `path label` lines");
  return std::make_unique<Probe>(*this, context);
}

}  // namespace keiko::objective
