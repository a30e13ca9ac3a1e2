#include "objective/classification.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "model/patches.h"
#include "objective/multilabel.h"
#include "objective/regression.h"
#include "objective/task.h"

namespace keiko::objective {
namespace {

// The two ways from patches to logits.
class Network {
 public:
  virtual ~Network() = default;
  // Normalised patches of all tokens [B, N, P] -> logits [B, classes].
  virtual at::Tensor forward(const at::Tensor& patches, const at::Tensor& keep,
                             const model::BlockRunner& runner) const = 0;
  // The encoder's part of it, [B, N, D].
  virtual at::Tensor tokens(const at::Tensor& patches, const model::BlockRunner& runner) const = 0;
};

class VideoMaeNetwork : public Network {
 public:
  VideoMaeNetwork(model::Parameters& parameters, const ClassificationOptions& o,
                  const model::TokenGrid& grid)
      : model_(parameters, o.vit, grid, {o.num_classes}) {}
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& keep,
                     const model::BlockRunner& runner) const override {
    return model_.forward(patches, keep, runner);
  }
  at::Tensor tokens(const at::Tensor& patches, const model::BlockRunner& runner) const override {
    return model_.encoder().forward(patches, model_.all_ids().expand({patches.size(0), -1}), {},
                                    runner);
  }

 private:
  model::VideoMaeClassifier model_;
};

model::PoolerOptions pooler_of(const ClassificationOptions& o) {
  return {o.pooler_depth, o.vit.heads, o.vit.layer_norm_eps};
}

class VJepa2Network : public Network {
 public:
  VJepa2Network(model::Parameters& parameters, const ClassificationOptions& o,
                const model::TokenGrid& grid)
      : model_(parameters, o.vit, grid.rows, pooler_of(o), o.num_classes),
        all_ids_(parameters.declare_table(model::all_tokens(1, grid))) {}
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& keep,
                     const model::BlockRunner& runner) const override {
    return model_.forward(patches, all_ids_.expand({patches.size(0), -1}), keep, runner);
  }
  at::Tensor tokens(const at::Tensor& patches, const model::BlockRunner& runner) const override {
    return model_.encoder().forward(patches, all_ids_.expand({patches.size(0), -1}), {}, runner);
  }

 private:
  model::VJepa2Classifier model_;
  at::Tensor all_ids_;
};

std::unique_ptr<Network> make_network(model::Parameters& parameters, const ClassificationOptions& o,
                                      const model::TokenGrid& grid) {
  if (o.backbone == "vjepa2") return std::make_unique<VJepa2Network>(parameters, o, grid);
  return std::make_unique<VideoMaeNetwork>(parameters, o, grid);
}

// The label, one class out of several.
class ClassTask : public Task {
 public:
  ClassTask(const ClassificationOptions& o, std::vector<std::string> class_names)
      : classes_(o.num_classes),
        label_smoothing_(o.label_smoothing),
        class_names_(std::move(class_names)) {}

  LossSums loss(const at::Tensor& logits, const MicroBatch& batch,
                const MixTensors& mix) const override {
    const at::Tensor target =
        mixed_targets(batch.label, classes_, label_smoothing_, mix, logits.scalar_type());
    // Of a mixed clip the label with the larger share counts as right.
    return {at::cross_entropy_loss(logits, target, {}, at::Reduction::Sum),
            logits.detach().argmax(1).eq(target.argmax(1)).sum().to(at::kDouble).view({1})};
  }
  std::vector<std::string> metric_names() const override { return {"top1"}; }

  std::vector<std::string> evaluation_columns() const override { return classification_columns(); }
  at::Tensor rows(const at::Tensor& logits, const MicroBatch& batch) const override {
    return classification_rows(logits, batch.label, batch.views);
  }
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    return summarize_classification(rows, class_names_);
  }

 private:
  int64_t classes_;
  double label_smoothing_;
  std::vector<std::string> class_names_;
};

std::vector<std::string> names_of(const std::vector<TargetColumn>& targets) {
  std::vector<std::string> names;
  for (const TargetColumn& target : targets) names.push_back(target.name);
  return names;
}

std::unique_ptr<Task> make_task(const ClassificationOptions& o, const ObjectiveContext& context) {
  if (o.target == "multilabel")
    return make_multilabel(names_of(context.targets), o.label_smoothing);
  if (o.target == "regression") return make_regression(context.targets, o.regression_loss);
  return std::make_unique<ClassTask>(o, context.class_names);
}

class Classification : public Objective {
 public:
  Classification(const ClassificationOptions& options, const ObjectiveContext& context)
      : options_(options),
        context_(context),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        parameters_(context.dtype),
        average_(context.dtype),
        task_(make_task(options, context)),
        network_(make_network(parameters_, options, grid_)) {
    if (options.ema > 0) averaged_network_ = make_network(average_, options, grid_);
    if (context.dry_run) return;
    parameters_.allocate(context.seed);
    if (averaged_network_) average_.allocate_copy(parameters_);
  }

  model::Parameters& parameters() override { return parameters_; }
  void move_to(at::Device device) override {
    parameters_.move_to(device);
    if (averaged_network_) average_.move_to(device);
    task_->move_to(device);
  }
  bool needs_label() const override { return options_.target == "class"; }
  TargetNeed target_need() const override {
    return options_.target == "multilabel"   ? TargetNeed::kShares
           : options_.target == "regression" ? TargetNeed::kNumbers
                                             : TargetNeed::kNone;
  }
  int head_block() const override { return int(options_.vit.depth) + 1; }

  // Shares of mixes and of drop-path in one tensor's type; and whether any clip is cut, and any
  // blended: most work of mixing is not done for batches without.
  Draws draw(const MicroBatch& batch) const override {
    const auto [mixes, partners] = mix(batch);
    bool has_cut = false, has_blend = false;
    for (const Mix& m : mixes) {
      has_cut |= m.is_cut;
      has_blend |= !m.is_cut && m.share < 1;
    }
    return {{pack_mixes(mixes, partners), make_drop_path(options_.drop_path, options_.vit.depth,
                                                         context_.seed, batch.positions)},
            {has_cut ? 1.0 : 0.0, has_blend ? 1.0 : 0.0}};
  }
  LossSums loss(const MicroBatch& batch, const Draws& draws,
                const model::BlockRunner& runner) override {
    const MixTensors mix = unpack_mixes(draws.tensors[0]);
    const bool has_cut = draws.numbers[0] != 0, has_blend = draws.numbers[1] != 0;
    at::Tensor patches = normalised_patches(has_cut ? cut_clips(batch.video, mix) : batch.video);
    if (has_blend) {
      const at::Tensor share =
          mix.share.masked_fill(mix.is_cut, 1).to(patches.scalar_type()).view({-1, 1, 1});
      patches = patches * share + patches.index_select(0, mix.partners) * (1 - share);
    }
    const at::Tensor& drawn = draws.tensors[1];
    const at::Tensor keep = drawn.defined() ? drawn.to(parameters_.dtype()) : drawn;
    const at::Tensor outputs = network_->forward(patches, keep, runner).to(parameters_.dtype());
    return task_->loss(outputs, batch, mix);
  }
  std::vector<std::string> metric_names() const override { return task_->metric_names(); }

  void after_step(int64_t) override {
    if (averaged_network_) model::update_average(average_, parameters_, options_.ema);
  }
  std::vector<model::NamedTensor> ema_weights() override {
    return averaged_network_ ? average_.published() : std::vector<model::NamedTensor>();
  }
  void load_ema(const std::vector<model::NamedTensor>& tensors) override {
    const auto unmatched = average_.load(tensors);
    if (averaged_network_ && !unmatched.missing.empty())
      fail(ErrorKind::kData, "the averaged weights have no {}", unmatched.missing[0]);
  }

  std::vector<model::NamedTensor> statistics() override { return task_->statistics(); }
  std::vector<model::NamedTensor> weights() override {
    auto all = parameters_.published();
    for (auto& entry : statistics()) all.push_back(std::move(entry));
    return all;
  }
  model::Parameters::Unmatched load_weights(
      const std::vector<model::NamedTensor>& tensors) override {
    auto unmatched = parameters_.load(tensors);
    restore_statistics(statistics(), tensors, unmatched);
    return unmatched;
  }

  std::vector<std::string> evaluation_columns() const override {
    return task_->evaluation_columns();
  }
  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const Network& network = averaged_network_ ? *averaged_network_ : *network_;
    return task_
        ->rows(network.forward(normalised_patches(batch.video), {}, model::BlockRunner()), batch)
        .cpu();
  }
  at::Tensor features(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const Network& network = averaged_network_ ? *averaged_network_ : *network_;
    return mean_over_views(network.tokens(normalised_patches(batch.video), model::BlockRunner()),
                           batch.views)
        .cpu();
  }

  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    auto summary = task_->summarize(rows);
    summary["weights"] = averaged_network_ ? "ema" : "model";
    return summary;
  }

  std::string start_from(const Weights& weights) override {
    const bool is_vjepa2 = options_.backbone == "vjepa2";
    // A pretraining run's teacher is the encoder that is meant to be used.
    const auto tensors =
        with_vjepa2_prefix(weights.ema.empty() ? weights.model : weights.ema, is_vjepa2);
    auto unmatched = parameters_.load(tensors);
    refuse_lost_positions(unmatched.unused);
    std::string fresh;
    for (const std::string& name : unmatched.missing) {
      if (name.rfind(is_vjepa2 ? "vjepa2." : "videomae.", 0) == 0)
        fail(ErrorKind::kData, "init_from: the checkpoint has no {}", name);
      fresh += (fresh.empty() ? "" : ", ") + name;
    }
    if (averaged_network_) average_.load(parameters_.published());
    // A head that says standardised targets means those that it was trained with.
    const size_t missing = unmatched.missing.size();
    restore_statistics(statistics(), weights.model, unmatched);
    const bool has_statistics = !statistics().empty() && unmatched.missing.size() == missing;
    return fmt::format("encoder taken{}{}; initialised: {}; {} tensors of the checkpoint unused",
                       weights.ema.empty() ? "" : " (its moving average)",
                       has_statistics ? ", and the targets' mean and spread" : "",
                       fresh.empty() ? "nothing" : fresh, unmatched.unused.size());
  }

  nlohmann::ordered_json config() const override {
    // transformers counts classes by their names: a wider head gets names for the rest.
    std::vector<std::string> names =
        needs_label() ? context_.class_names : names_of(context_.targets);
    while (int64_t(names.size()) < options_.num_classes)
      names.push_back(fmt::format("unused_{}", names.size()));
    const model::PoolerOptions pooler = pooler_of(options_);
    auto c = options_.backbone == "vjepa2"
                 ? model::vjepa2_config(options_.vit, nullptr, &pooler, context_.size,
                                        context_.num_frames, names)
                 : model::videomae_config(options_.vit, nullptr, grid_, false, names);
    if (!task_->problem_type().empty()) c["problem_type"] = task_->problem_type();
    return c;
  }

  // What was drawn for each clip. Where mixing is on: mix_share, what it keeps of itself (float64
  // [b]); mix_partner, an index into the batch (int64 [b]); mix_box, the top, left, bottom and
  // right of what the partner's pixels fill (int64 [b, 4], zeros without a cut). With drop-path:
  // keep, what each branch of each block is multiplied by (float64 [depth, 2, b]).
  std::vector<model::NamedTensor> fields(const MicroBatch& batch) override {
    std::vector<model::NamedTensor> fields;
    if (options_.mixup.is_on()) {
      const auto [mixes, partners] = mix(batch);
      std::vector<double> shares;
      std::vector<int64_t> boxes;
      for (const Mix& m : mixes) {
        shares.push_back(m.share);
        boxes.insert(boxes.end(), {m.top, m.left, m.bottom, m.right});
      }
      fields.emplace_back("mix_share", at::tensor(shares, at::kDouble));
      fields.emplace_back("mix_partner", at::tensor(partners));
      fields.emplace_back("mix_box", at::tensor(boxes).view({-1, 4}));
    }
    if (options_.drop_path > 0)
      fields.emplace_back("keep", make_drop_path(options_.drop_path, options_.vit.depth,
                                                 context_.seed, batch.positions));
    return fields;
  }

  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    double forward = 2.0 * double(n) * double(grid_.patch_values()) * double(v.width) +
                     model::blocks_flops(v.depth, n, v.width, v.mlp_width());
    if (options_.backbone == "vjepa2")  // the pooling block: keys and values of all tokens
      forward += model::blocks_flops(options_.pooler_depth, n, v.width, 4 * v.width) +
                 4.0 * double(n) * double(v.width) * double(v.width);
    return 3 * forward;
  }
  std::vector<PartSize> part_sizes() override {
    const int64_t all = parameters_.count();
    const int64_t encoder =
        parameters_.count(options_.backbone == "vjepa2" ? "vjepa2." : "videomae.");
    std::vector<PartSize> sizes = {{"encoder", encoder, true}, {"head", all - encoder, true}};
    if (averaged_network_) sizes.push_back({"moving average", average_.count(), false});
    return sizes;
  }
  double activations_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    double numbers = double(n * grid_.patch_values()) +
                     model::blocks_activations(v.depth, n, v.width, v.mlp_width());
    if (options_.backbone == "vjepa2")  // and the pooling block: input, norm, keys and values
      numbers += model::blocks_activations(options_.pooler_depth, n, v.width, 4 * v.width) +
                 4.0 * double(n * v.width);
    return numbers;
  }

 private:
  at::Tensor normalised_patches(const at::Tensor& video) const {
    return model::take_patches(video, model::all_tokens(video.size(0), grid_, video.device()),
                               grid_, parameters_.dtype());
  }

  // Each clip's mix and its partner's place in the batch; both empty when mixing is off.
  std::pair<std::vector<Mix>, std::vector<int64_t>> mix(const MicroBatch& batch) const {
    std::vector<Mix> mixes;
    std::vector<int64_t> partners;
    if (!options_.mixup.is_on()) return {mixes, partners};
    for (int64_t position : batch.positions) {
      mixes.push_back(make_mix(options_.mixup, context_.seed, position, context_.repeats,
                               context_.size, context_.size));
      const auto found =
          std::find(batch.positions.begin(), batch.positions.end(), mixes.back().partner);
      if (found == batch.positions.end())
        fail(ErrorKind::kInternal, "the mixup partner {} of position {} is not in its micro-batch",
             mixes.back().partner, position);
      partners.push_back(found - batch.positions.begin());
    }
    return {mixes, partners};
  }

  ClassificationOptions options_;
  ObjectiveContext context_;
  model::TokenGrid grid_;
  model::Parameters parameters_, average_;
  std::unique_ptr<Task> task_;
  std::unique_ptr<Network> network_, averaged_network_;
};

}  // namespace

std::vector<std::string> classification_columns() {
  return {"loss", "top1", "top5", "label", "predicted"};
}

at::Tensor classification_rows(const at::Tensor& logits_in, const at::Tensor& labels,
                               int64_t views) {
  at::Tensor logits = logits_in.to(at::kDouble), label = labels;
  if (views > 1) {
    const int64_t items = logits.size(0) / views;
    logits = logits.softmax(1).view({items, views, -1}).mean(1).clamp_min(1e-300).log();
    label = labels.view({items, views}).select(1, 0).contiguous();
  }
  const at::Tensor predicted = logits.argmax(1);
  const at::Tensor own = logits.gather(1, label.unsqueeze(1));
  // Classes before the right one: those that score higher, and equal ones with smaller numbers. A
  // score that is no number is behind all.
  const at::Tensor earlier = logits.eq(own).logical_and(
      at::arange(logits.size(1), label.options()).unsqueeze(0).lt(label.unsqueeze(1)));
  const at::Tensor rank =
      logits.gt(own).logical_or(earlier).sum(1).masked_fill(own.squeeze(1).isnan(), logits.size(1));
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
  if (class_names.size() > 5) {
    const int64_t among_five = std::llround(rows.select(1, 2).sum().item<double>());
    const Interval five = wilson_interval(among_five, n);
    out["top5"] = double(among_five) / double(n);
    out["top5_low"] = five.low;
    out["top5_high"] = five.high;
  }
  for (size_t i = 0; i < class_names.size() && class_names.size() <= 50; ++i) {
    const at::Tensor own = rows.select(1, 1).index({rows.select(1, 3).eq(double(i))});
    if (own.numel() > 0) out["top1_by_class"][class_names[i]] = own.mean().item<double>();
  }
  return out;
}

std::vector<model::NamedTensor> with_vjepa2_prefix(std::vector<model::NamedTensor> tensors,
                                                   bool wanted) {
  static const std::string kPrefix = "vjepa2.";
  for (auto& [name, tensor] : tensors) {
    const bool has = name.rfind(kPrefix, 0) == 0;
    const bool is_model = name.rfind("encoder.", 0) == 0 || name.rfind("predictor.", 0) == 0;
    if (wanted && !has && is_model) name = kPrefix + name;
    if (!wanted && has) name = name.substr(kPrefix.size());
  }
  return tensors;
}

at::Tensor make_drop_path(double drop_path, int64_t depth, uint64_t seed,
                          const std::vector<int64_t>& positions) {
  if (drop_path == 0) return {};
  const int64_t b = int64_t(positions.size());
  at::Tensor keep = at::empty({depth, 2, b}, at::kDouble);
  auto values = keep.accessor<double, 3>();
  for (int64_t i = 0; i < b; ++i) {
    Rng rng(seed, Stream::kDropPath, uint64_t(positions[size_t(i)]));
    for (int64_t layer = 0; layer < depth; ++layer) {
      const double rate = depth == 1 ? drop_path : drop_path * double(layer) / double(depth - 1);
      for (int64_t branch = 0; branch < 2; ++branch)
        values[layer][branch][i] = rng.uniform() < rate ? 0.0 : 1 / (1 - rate);
    }
  }
  return keep;
}

void ClassificationOptions::bind(config::Binder& b) {
  b.choice("backbone", backbone, {"videomae", "vjepa2"},
           "encoder; with vjepa2 an attentive pooler under the head");
  const bool is_vjepa2 = backbone == "vjepa2";
  if (b.is_reading() && is_vjepa2) vit.positions = "rope";
  vit.bind(b, is_vjepa2 ? model::Family::kVJepa2 : model::Family::kVideoMae);
  if (is_vjepa2)
    b.key("pooler_depth", pooler_depth, "self-attention blocks before the pooling one")
        .range(0, 64);
  b.choice("target", target, {"class", "multilabel", "regression"},
           "what is learned of a clip: its label, or data.targets as classes or as numbers");
  if (target == "regression")
    b.choice("regression_loss", regression_loss, {"mse", "smooth_l1"},
             "of the standardised targets");
  b.key("num_classes", num_classes, "0 is as many as the data has").at_least(0);
  b.key("label_smoothing", label_smoothing, "share of the target spread over all classes")
      .range(0, 0.99);
  if (target == "regression" && label_smoothing > 0)
    b.refuse("label_smoothing", "does not go with target = regression, which has no classes");
  b.key("drop_path", drop_path, "stochastic depth of the last block").range(0, 0.99);
  mixup.bind(b);
  b.key("ema", ema, "momentum of averaged weights, which evaluation uses; 0 is off").range(0, 1);
}

std::unique_ptr<Objective> ClassificationOptions::make(const ObjectiveContext& context) const {
  ClassificationOptions resolved = *this;
  if (target != "class") {
    const int64_t columns = int64_t(context.targets.size());
    if (columns == 0)
      fail(ErrorKind::kUsage,
           "the data has no targets, which objective.target = {} needs; name a table of paths and "
           "numbers in data.targets",
           target);
    if (num_classes != 0 && num_classes != columns)
      fail(ErrorKind::kUsage, "objective.num_classes = {}, but the data has {} targets; leave it 0",
           num_classes, columns);
    resolved.num_classes = columns;
    return std::make_unique<Classification>(resolved, context);
  }
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
