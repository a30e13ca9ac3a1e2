#include "objective/joint_embedding.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "base/error.h"
#include "model/patches.h"
#include "model/upload.h"

namespace keiko::objective {
namespace {

using model::gather_tokens;

class JointEmbedding : public Objective {
 public:
  JointEmbedding(const JointEmbeddingOptions& options, const ObjectiveContext& context)
      : options_(options),
        context_(context),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        cut_(options.mask_cut == "raster" ? MaskCut::kRaster : MaskCut::kRandom),
        parameters_(context.dtype),
        average_(context.dtype),
        student_(parameters_, options.vit, grid_.rows, ""),
        predictor_(parameters_, options.vit, options.predictor, grid_.rows, ""),
        teacher_(average_, options.vit, grid_.rows, "") {
    if (options.context_loss > 0)
      context_proj_ = model::declare_linear(
          parameters_, "predictor.proj_context", int(options.vit.depth + options.predictor.depth),
          options.predictor.width, options.vit.width, model::Init::kTruncNormal, 0.02);
    if (context.dry_run) return;
    parameters_.allocate(context.seed);
    average_.allocate_copy(parameters_);
  }

  model::Parameters& parameters() override { return parameters_; }
  void move_to(at::Device device) override {
    parameters_.move_to(device);
    average_.move_to(device);
  }

  Draws draw(const MicroBatch& batch) const override {
    Draws draws;
    for (size_t g = 0; g < options_.masks.size(); ++g) {
      const ContextTarget split = split_tokens(batch, int64_t(g));
      draws.tensors.push_back(split.context);
      draws.tensors.push_back(split.target);
    }
    draws.numbers = {batch.is_training() ? context_weight(batch.step) : 0};
    return draws;
  }
  LossSums loss(const MicroBatch& batch, const Draws& draws,
                const model::BlockRunner& runner) override {
    const at::Tensor targets = teach(batch.video);
    at::Tensor sum, target_loss;
    for (const ContextTarget& split : splits_in(draws.tensors)) {
      const Losses losses = clip_losses(batch.video, targets, split, draws.numbers[0], runner);
      sum = sum.defined() ? sum + losses.all.sum() : losses.all.sum();
      const at::Tensor said = losses.target.detach().sum();
      target_loss = target_loss.defined() ? target_loss + said : said;
    }
    const double masks = double(options_.masks.size());
    const at::Tensor metrics = at::stack({target_loss / masks, spread(targets).sum()});
    return {sum / masks, metrics.to(at::kDouble)};
  }
  // token_std: how much a clip's target tokens differ from each other; it falls to 0 when the
  // encoder collapses.
  std::vector<std::string> metric_names() const override { return {"target_loss", "token_std"}; }

  std::string alarm(const std::vector<double>& metrics) const override {
    if (!(metrics[1] <= kCollapsed)) return "";  // NaN is the guard's business
    return fmt::format(
        "token_std = {:.4g}: the encoder says nearly the same of every token (collapse); lower "
        "optimizer.base_lr, or raise objective.ema or optimizer.warmup_steps",
        metrics[1]);
  }

  void after_step(int64_t steps) override {
    const double share =
        context_.steps > 1 ? std::min(1.0, double(steps - 1) / double(context_.steps - 1)) : 0.0;
    model::update_average(average_, parameters_,
                          options_.ema[0] + share * (options_.ema[1] - options_.ema[0]));
  }
  std::vector<model::NamedTensor> ema_weights() override { return average_.published(); }
  void load_ema(const std::vector<model::NamedTensor>& tensors) override {
    const auto unmatched = average_.load(tensors);
    if (!unmatched.missing.empty())
      fail(ErrorKind::kData, "the moving average of the encoder has no {}", unmatched.missing[0]);
  }

  // Per clip: the loss; the same with the context frozen to its first frame; what saying the
  // context's mean or nothing costs; token_std; and the mean token of the clip, from which the
  // spread over clips is made.
  std::vector<std::string> evaluation_columns() const override {
    std::vector<std::string> columns = {"loss", "frozen_loss", "context_mean_loss", "zero_loss",
                                        "token_std"};
    for (int64_t i = 0; i < options_.vit.width; ++i)
      columns.push_back(fmt::format("feature_{}", i));
    return columns;
  }

  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const int64_t width = options_.vit.width;
    std::vector<at::Tensor> rows;
    for (size_t i = 0; i < batch.positions.size(); i += size_t(batch.views)) {
      at::Tensor row = at::zeros({kFixedColumns + width},
                                 at::TensorOptions(at::kDouble).device(parameters_.device()));
      for (int64_t view = 0; view < batch.views; ++view)
        row += evaluate_clip(batch.video.narrow(0, int64_t(i) + view, 1), batch.positions[i]);
      rows.push_back(row / double(batch.views));
    }
    return at::stack(rows).cpu();
  }

  at::Tensor features(const MicroBatch& batch) override {
    return mean_over_views(teacher_tokens(batch.video), batch.views).cpu();
  }

  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    const int64_t n = rows.size(0);
    nlohmann::ordered_json out;
    out["clips"] = n;
    const char* names[] = {"loss", "frozen_loss", "context_mean_loss", "zero_loss", "token_std"};
    for (int64_t i = 0; i < kFixedColumns; ++i)
      out[names[i]] = rows.select(1, i).mean().item<double>();
    out["frozen_over_loss"] =
        out["frozen_loss"].get<double>() / std::max(1e-12, out["loss"].get<double>());
    if (n > 1) {
      const at::Tensor features = rows.narrow(1, kFixedColumns, options_.vit.width);
      const at::Tensor centred = features - features.mean(0, true);
      out["feature_std"] = features.std(0).mean().item<double>();
      // Participation ratio of the covariance's eigenvalues: how many directions are in use.
      const at::Tensor covariance = at::matmul(centred.t(), centred);
      const double trace = covariance.diagonal().sum().item<double>();
      const double squares = covariance.square().sum().item<double>();
      out["feature_rank"] = squares > 0 ? trace * trace / squares : 0.0;
    }
    return out;
  }

  std::string start_from(const Weights& weights) override {
    const auto unmatched = parameters_.load(weights.model);
    for (const std::string& name : unmatched.missing)
      if (name.rfind("encoder.", 0) == 0)
        fail(ErrorKind::kData, "init_from: the checkpoint has no {}", name);
    if (weights.ema.empty()) {
      average_.load(parameters_.published());
    } else {
      load_ema(weights.ema);
    }
    return fmt::format("{} tensors taken, {} initialised, {} of the checkpoint unused; teacher {}",
                       weights.model.size() - unmatched.unused.size(), unmatched.missing.size(),
                       unmatched.unused.size(),
                       weights.ema.empty() ? "starts as a copy of the encoder" : "taken too");
  }

  nlohmann::ordered_json config() const override {
    return model::vjepa2_config(options_.vit, &options_.predictor, nullptr, context_.size,
                                context_.num_frames, {});
  }

  std::vector<model::NamedTensor> fields(const MicroBatch& batch) override {
    std::vector<model::NamedTensor> fields;
    for (size_t g = 0; g < options_.masks.size(); ++g) {
      const ContextTarget split = split_tokens(batch, int64_t(g));
      fields.emplace_back(fmt::format("context.{}", g), split.context);
      fields.emplace_back(fmt::format("target.{}", g), split.target);
    }
    return fields;
  }

  // The clip, and one row for each mask with its targets grey and what was cut black.
  at::Tensor picture(const MicroBatch& batch) override {
    const at::Tensor patches = model::patchify(batch.video, grid_);
    std::vector<at::Tensor> rows = {batch.video};
    for (const ContextTarget& split : split_by_all_masks(batch)) {
      const auto wide = [&](const at::Tensor& ids) {
        return ids.unsqueeze(2).expand({-1, -1, patches.size(2)});
      };
      at::Tensor shown = at::zeros_like(patches);
      shown.scatter_(1, wide(split.context), gather_tokens(patches, split.context));
      shown.scatter_(1, wide(split.target), 128);
      rows.push_back(model::unpatchify(shown, grid_));
    }
    return at::stack(rows, 1).cpu();
  }

  // Numbers of tokens depend on the draw: of one clip masked by the mean area of its blocks.
  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const auto& p = options_.predictor;
    const int64_t n = grid_.count(), mlp = int64_t(double(p.width) * p.mlp_ratio);
    const auto encoder = [&](int64_t tokens) {
      return 2.0 * double(tokens) * double(grid_.patch_values()) * double(v.width) +
             model::blocks_flops(v.depth, tokens, v.width, v.mlp_width());
    };
    double flops = encoder(n);  // the teacher, forward alone
    for (size_t g = 0; g < options_.masks.size(); ++g) {
      const ContextTarget split =
          make_block_masks(options_.masks[g], int64_t(g), cut_, grid_, context_.seed, 0, 0, 1, {0});
      const int64_t k = split.context.size(1), m = split.target.size(1);
      const double projections = 2.0 * double(k + m) * double(p.width) * double(v.width);
      flops += 3 * (encoder(k) + projections + model::blocks_flops(p.depth, k + m, p.width, mlp));
    }
    return flops;
  }
  std::vector<PartSize> part_sizes() override {
    const int64_t encoder = parameters_.count("encoder.");
    return {{"encoder", encoder, true},
            {"predictor", parameters_.count() - encoder, true},
            {"teacher", average_.count(), false}};
  }
  // As flops_per_clip() counts tokens. All masks' graphs live until the backward pass; the teacher
  // leaves its tokens alone.
  double activations_per_clip() const override {
    const auto& v = options_.vit;
    const auto& p = options_.predictor;
    const int64_t mlp = int64_t(double(p.width) * p.mlp_ratio);
    double numbers = double(grid_.count() * v.width);
    for (size_t g = 0; g < options_.masks.size(); ++g) {
      const ContextTarget split =
          make_block_masks(options_.masks[g], int64_t(g), cut_, grid_, context_.seed, 0, 0, 1, {0});
      const int64_t k = split.context.size(1), m = split.target.size(1);
      numbers += double(k * grid_.patch_values() + 3 * m * v.width) +
                 model::blocks_activations(v.depth, k, v.width, v.mlp_width()) +
                 model::blocks_activations(p.depth, k + m, p.width, mlp);
    }
    return numbers;
  }

 private:
  static constexpr int64_t kFixedColumns = 5;
  // Target tokens have unit variance over channels: their standard deviation over a clip's tokens
  // is near 1 where they differ.
  static constexpr double kCollapsed = 0.05;
  struct Losses {
    at::Tensor all, target;  // [b]: what is learned from, and the targets' part of it
  };

  ContextTarget split_tokens(const MicroBatch& batch, int64_t generator) const {
    if (batch.is_training())
      return make_block_masks(options_.masks[size_t(generator)], generator, cut_, grid_,
                              context_.seed, batch.step, batch.batch_first, batch.batch_last,
                              batch.positions);
    // Every clip a batch of its own: only equal numbers of tokens can be stacked.
    if (batch.positions.size() == 1) return split_alone(batch.positions[0], generator);
    fail(ErrorKind::kInternal, "masks of {} clips were asked for outside of training",
         batch.positions.size());
  }
  ContextTarget split_alone(int64_t position, int64_t generator) const {
    return make_block_masks(options_.masks[size_t(generator)], generator, cut_, grid_,
                            context_.seed, position, 0, 0, {position});
  }

  // Each mask's tokens, as draw() puts them.
  static std::vector<ContextTarget> splits_in(const std::vector<at::Tensor>& tensors) {
    std::vector<ContextTarget> splits;
    for (size_t i = 0; i < tensors.size(); i += 2) splits.push_back({tensors[i], tensors[i + 1]});
    return splits;
  }
  // The same where the model is, in one copy.
  std::vector<ContextTarget> split_by_all_masks(const MicroBatch& batch) const {
    return splits_in(model::upload_all(draw(batch).tensors, parameters_.device()));
  }

  // Patches of the tokens `ids`, as the encoders take them.
  at::Tensor take(const at::Tensor& video, const at::Tensor& ids) const {
    return model::take_patches(video, ids, grid_, parameters_.dtype());
  }
  // What the teacher makes of whole clips, [b, N, D].
  at::Tensor teacher_tokens(const at::Tensor& video) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor ids = model::all_tokens(video.size(0), grid_, video.device());
    // Under autocast the encoder's last norm leaves bf16: targets, losses and figures are not made
    // of that.
    return teacher_.forward(take(video, ids), ids, {}, model::BlockRunner())
        .to(parameters_.dtype());
  }
  // The same through the parameterless norm.
  at::Tensor teach(const at::Tensor& video) const {
    return model::vjepa2_target(teacher_tokens(video));
  }

  // Standard deviation over a clip's tokens, mean over channels, [b].
  static at::Tensor spread(const at::Tensor& tokens) { return tokens.std(1).mean(1); }

  // `weight`: of the context tokens' loss.
  Losses clip_losses(const at::Tensor& video, const at::Tensor& targets, const ContextTarget& split,
                     double weight, const model::BlockRunner& runner) const {
    const at::Tensor context =
        student_.forward(take(video, split.context), split.context, {}, runner);
    const auto said = predictor_.forward(context, split.context, split.target,
                                         weight > 0 ? context_proj_ : model::Linear(), runner);
    Losses losses;
    losses.target = difference(said.target, gather_tokens(targets, split.target)).mean(1);
    losses.all = losses.target;
    if (weight > 0) {
      // The public code takes the square root of the distance ("decreases less aggressive").
      const at::Tensor by_token =
          difference(said.context, gather_tokens(targets, split.context)) / distances(split).sqrt();
      losses.all = losses.all + weight * by_token.mean(1);
    }
    return losses;
  }

  // Mean absolute difference of each token, [b, K].
  static at::Tensor difference(const at::Tensor& said, const at::Tensor& wanted) {
    return (said.to(wanted.scalar_type()) - wanted).abs().mean(2);
  }

  // V-JEPA 2.1's public code: 0 up to the first step, a line to the second, then constant.
  double context_weight(int64_t step) const {
    const double first = double(options_.context_loss_warmup[0]);
    const double last = double(options_.context_loss_warmup[1]);
    const double share = (double(step) - first) / std::max(1.0, last - first);
    return options_.context_loss * std::clamp(share, 0.0, 1.0);
  }

  // From every context token to the nearest target token, in tokens over time, row and column,
  // [b, K].
  at::Tensor distances(const ContextTarget& split) const {
    const auto places = [&](const at::Tensor& ids) {
      const int64_t frame = grid_.rows * grid_.columns;
      return at::stack({ids.floor_divide(frame), ids.remainder(frame).floor_divide(grid_.columns),
                        ids.remainder(grid_.columns)},
                       -1)
          .to(parameters_.dtype());
    };
    return std::get<0>(at::cdist(places(split.context), places(split.target)).min(2));
  }

  // The row of one clip, on its device.
  at::Tensor evaluate_clip(const at::Tensor& video, int64_t position) {
    const model::BlockRunner runner;
    const at::Tensor frozen = video.select(2, 0).unsqueeze(2).expand(video.sizes()).contiguous();
    const at::Tensor targets = teach(video);
    at::Tensor row = at::zeros({kFixedColumns + options_.vit.width},
                               at::TensorOptions(at::kDouble).device(video.device()));
    MicroBatch alone;
    alone.positions = {position};
    for (const ContextTarget& split : split_by_all_masks(alone)) {
      const at::Tensor wanted = gather_tokens(targets, split.target);
      const at::Tensor mean = gather_tokens(targets, split.context).mean(1, true);
      row[0] += clip_losses(video, targets, split, 0, runner).target[0].to(at::kDouble);
      row[1] += clip_losses(frozen, targets, split, 0, runner).target[0].to(at::kDouble);
      row[2] += difference(mean, wanted).mean().to(at::kDouble);
      row[3] += wanted.abs().mean().to(at::kDouble);
    }
    row.narrow(0, 0, 4).div_(double(options_.masks.size()));
    row[4].copy_(spread(targets)[0]);
    row.narrow(0, kFixedColumns, options_.vit.width).copy_(targets[0].mean(0));
    return row;
  }

  JointEmbeddingOptions options_;
  ObjectiveContext context_;
  model::TokenGrid grid_;
  MaskCut cut_;
  model::Parameters parameters_, average_;
  model::VJepa2Encoder student_;
  model::VJepa2Predictor predictor_;
  model::VJepa2Encoder teacher_;
  model::Linear context_proj_;
};

}  // namespace

void JointEmbeddingOptions::bind(config::Binder& b) {
  vit.bind(b, model::Family::kVJepa2);
  b.key("predictor_width", predictor.width, "predictor channels").range(1, 1 << 16);
  b.key("predictor_depth", predictor.depth, "predictor blocks").range(1, 1024);
  b.key("predictor_heads", predictor.heads, "predictor attention heads").range(1, 1024);
  if (predictor.width % predictor.heads != 0)
    b.refuse("predictor_width",
             fmt::format("is not a multiple of predictor_heads = {}", predictor.heads));
  b.key("predictor_mlp_ratio", predictor.mlp_ratio, "hidden channels of its MLP over width")
      .range(0.01, 64);
  b.key("mask_tokens", predictor.mask_tokens, "that the file holds; one of them is trained")
      .range(1, 1000);
  b.key("mask_token", predictor.mask_token, "the one that is trained; transformers reads 1")
      .range(0, 999);
  b.list("masks", masks, "blocks");
  if (masks.empty()) b.refuse("masks", "must name one rule or more");
  b.choice("mask_cut", mask_cut, {"random", "raster"},
           "how clips get equal numbers of tokens: random ones go, or the last (published code)");
  b.key("ema", ema, "momentum of the teacher at the first and last step").range(0, 1);
  if (ema.size() != 2) b.refuse("ema", "must be two numbers");
  b.key("context_loss", context_loss, "V-JEPA 2.1: weight of the context tokens' loss; 0 is off")
      .range(0, 1000);
  b.key("context_loss_warmup", context_loss_warmup, "steps between which it rises");
  if (context_loss_warmup.size() != 2 || context_loss_warmup[0] < 0 ||
      context_loss_warmup[0] > context_loss_warmup[1])
    b.refuse("context_loss_warmup", "must be two steps, the first not after the second");
}

std::unique_ptr<Objective> JointEmbeddingOptions::make(const ObjectiveContext& context) const {
  return std::make_unique<JointEmbedding>(*this, context);
}

}  // namespace keiko::objective
