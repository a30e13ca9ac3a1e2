#include "objective/classification.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "base/error.h"
#include "base/rng.h"

namespace keiko::objective {
namespace {

class Classification : public Objective {
 public:
  Classification(const ClassificationOptions& options, const ObjectiveContext& context)
      : options_(options),
        seed_(context.seed),
        class_names_(context.class_names),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        parameters_(context.dtype),
        model_(parameters_, options.vit, grid_, {options.num_classes}) {
    parameters_.allocate(context.seed);
  }

  model::Parameters& parameters() override { return parameters_; }
  bool needs_label() const override { return true; }

  LossSums loss(const MicroBatch& batch, const model::BlockRunner& runner) override {
    const at::Tensor logits = forward(batch, drop_path(batch.positions), runner);
    const at::Tensor loss = at::cross_entropy_loss(logits, batch.label, {}, at::Reduction::Sum,
                                                   -100, options_.label_smoothing);
    return {loss, logits.detach().argmax(1).eq(batch.label).sum().to(at::kDouble).view({1})};
  }
  std::vector<std::string> metric_names() const override { return {"top1"}; }

  std::vector<std::string> evaluation_columns() const override { return classification_columns(); }
  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    return classification_rows(forward(batch, {}, model::BlockRunner()), batch.label);
  }
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    return summarize_classification(rows, class_names_);
  }

  std::string start_from(const std::vector<model::NamedTensor>& tensors) override {
    const auto unmatched = parameters_.load(tensors);
    refuse_lost_positions(unmatched.unused);
    std::string fresh;
    for (const std::string& name : unmatched.missing) {
      if (name.rfind("videomae.", 0) == 0)
        fail(ErrorKind::kData, "init_from: the checkpoint has no {}", name);
      fresh += (fresh.empty() ? "" : ", ") + name;
    }
    return fmt::format("encoder taken; initialised: {}; {} tensors of the checkpoint unused",
                       fresh.empty() ? "nothing" : fresh, unmatched.unused.size());
  }

  nlohmann::ordered_json config() const override {
    // transformers counts classes by their names: a wider head gets names for the rest.
    std::vector<std::string> names = class_names_;
    while (int64_t(names.size()) < options_.num_classes)
      names.push_back(fmt::format("unused_{}", names.size()));
    return model::videomae_config(options_.vit, nullptr, grid_, false, names);
  }

  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    return 3 * (2.0 * double(n) * double(grid_.patch_values()) * double(v.width) +
                model::blocks_flops(v.depth, n, v.width, v.mlp_width()));
  }

 private:
  at::Tensor forward(const MicroBatch& batch, const at::Tensor& keep,
                     const model::BlockRunner& runner) const {
    const at::Tensor patches = model::patchify(batch.video, grid_);
    return model_.forward(model::normalise_patches(patches, grid_, parameters_.dtype()), keep,
                          runner);
  }

  // Stochastic depth (Huang et al. 2016): each branch of each clip is dropped with a probability
  // that grows with depth, and scaled up otherwise. [depth, 2, b], or undefined when off.
  at::Tensor drop_path(const std::vector<int64_t>& positions) const {
    if (options_.drop_path == 0) return {};
    const int64_t depth = options_.vit.depth, b = int64_t(positions.size());
    at::Tensor keep = at::empty({depth, 2, b}, at::kDouble);
    for (int64_t i = 0; i < b; ++i) {
      Rng rng(seed_, Stream::kDropPath, uint64_t(positions[size_t(i)]));
      for (int64_t layer = 0; layer < depth; ++layer) {
        const double rate = depth == 1 ? options_.drop_path
                                       : options_.drop_path * double(layer) / double(depth - 1);
        for (int64_t branch = 0; branch < 2; ++branch)
          keep.index_put_({layer, branch, i}, rng.uniform() < rate ? 0.0 : 1 / (1 - rate));
      }
    }
    return keep.to(parameters_.dtype());
  }

  ClassificationOptions options_;
  uint64_t seed_;
  std::vector<std::string> class_names_;
  model::TokenGrid grid_;
  model::Parameters parameters_;
  model::VideoMaeClassifier model_;
};

}  // namespace

std::vector<std::string> classification_columns() {
  return {"loss", "top1", "top5", "label", "predicted"};
}

at::Tensor classification_rows(const at::Tensor& logits_in, const at::Tensor& label) {
  const at::Tensor logits = logits_in.to(at::kDouble);
  const at::Tensor predicted = logits.argmax(1);
  const at::Tensor own = logits.gather(1, label.unsqueeze(1));
  const at::Tensor rank = logits.gt(own).sum(1);  // classes that score higher than the right one
  return at::stack({at::cross_entropy_loss(logits, label, {}, at::Reduction::None),
                    predicted.eq(label).to(at::kDouble), rank.lt(5).to(at::kDouble),
                    label.to(at::kDouble), predicted.to(at::kDouble)},
                   1);
}

nlohmann::ordered_json summarize_classification(const at::Tensor& rows,
                                                const std::vector<std::string>& class_names) {
  const int64_t n = rows.size(0);
  const int64_t hits = std::llround(rows.select(1, 1).sum().item<double>());
  const Interval interval = wilson_interval(hits, n);
  nlohmann::ordered_json out;
  out["clips"] = n;
  out["loss"] = rows.select(1, 0).mean().item<double>();
  out["top1"] = double(hits) / double(n);
  out["top1_low"] = interval.low;
  out["top1_high"] = interval.high;
  if (class_names.size() > 5) out["top5"] = rows.select(1, 2).mean().item<double>();
  for (size_t i = 0; i < class_names.size() && class_names.size() <= 50; ++i) {
    const at::Tensor own = rows.select(1, 1).index({rows.select(1, 3).eq(double(i))});
    if (own.numel() > 0) out["top1_by_class"][class_names[i]] = own.mean().item<double>();
  }
  return out;
}

void ClassificationOptions::bind(config::Binder& b) {
  vit.bind(b, model::Family::kVideoMae);
  b.key("num_classes", num_classes, "0 is as many as the data has").at_least(0);
  b.key("label_smoothing", label_smoothing, "share of the target spread over all classes")
      .range(0, 0.99);
  b.key("drop_path", drop_path, "stochastic depth of the last block").range(0, 0.99);
}

std::unique_ptr<Objective> ClassificationOptions::make(const ObjectiveContext& context) const {
  ClassificationOptions resolved = *this;
  const int64_t known = int64_t(context.class_names.size());
  if (known == 0)
    fail(ErrorKind::kUsage,
         "the data has no labels, which classification needs; put each class into a folder of its "
         "own, "
         "or index a list of `path label` lines");
  if (num_classes == 0) resolved.num_classes = known;
  if (resolved.num_classes < known)
    fail(ErrorKind::kUsage, "objective.num_classes = {} is fewer than the data's {} classes",
         num_classes, known);
  return std::make_unique<Classification>(resolved, context);
}

}  // namespace keiko::objective
