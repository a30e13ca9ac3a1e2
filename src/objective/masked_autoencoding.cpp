#include "objective/masked_autoencoding.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "base/error.h"
#include "model/patches.h"
#include "model/upload.h"

namespace keiko::objective {
namespace {

using model::TokenGrid;

// The token indices that a batch sees, and those that the decoder says.
struct Split {
  at::Tensor visible, masked;  // int64 [b, K], [b, M], raster order
  // Undefined: all of `masked` count. Else int64 [b, M], 1 where the token was hidden from the
  // encoder: a decoder mask leaves the decoder to say tokens that it sees, too.
  at::Tensor counted;
};

class MaskedAutoencoding : public Objective {
 public:
  MaskedAutoencoding(const MaskedAutoencodingOptions& options, const ObjectiveContext& context)
      : options_(options),
        seed_(context.seed),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        hidden_(hidden_count(options.mask, grid_)),
        parameters_(context.dtype),
        model_(parameters_, options.vit, options.decoder, grid_) {
    if (options.decoder_mask.ratio > 0 && (grid_.rows % 2 != 0 || grid_.columns % 2 != 0))
      fail(ErrorKind::kUsage,
           "objective.decoder_mask_ratio = {} needs an even number of tokens along both sides, but "
           "clip.size = {} is {} x {} of them; use another clip.size",
           options.decoder_mask.ratio, context.size, grid_.rows, grid_.columns);
    if (!context.dry_run) parameters_.allocate(context.seed);
  }

  model::Parameters& parameters() override { return parameters_; }

  Draws draw(const MicroBatch& batch) const override {
    const Split split = options_.decoder_mask.ratio > 0 && batch.is_training()
                            ? split_for_decoder(batch.positions)
                            : split_tokens(batch.positions);
    return {{split.visible, split.masked, split.counted}, {}};
  }
  LossSums loss(const MicroBatch& batch, const Draws& draws,
                const model::BlockRunner& runner) override {
    const Split split{draws.tensors[0], draws.tensors[1], draws.tensors[2]};
    const at::Tensor predicted =
        model_
            .forward(model::take_patches(batch.video, split.visible, grid_, parameters_.dtype()),
                     split.visible, split.masked, runner)
            .to(parameters_.dtype());
    const at::Tensor errors =
        model::target_errors(predicted, batch.video, split.masked, grid_, target_unit());
    if (!split.counted.defined()) return {errors.mean(1).sum(), {}};
    const at::Tensor counted = split.counted.to(parameters_.dtype());
    return {((errors * counted).sum(1) / counted.sum(1).clamp_min(1)).sum(), {}};
  }

  // Per clip: the loss; the loss when the model sees a frozen first frame; the same errors for what
  // a model could say without having learned anything; and what the constant prediction needs.
  std::vector<std::string> evaluation_columns() const override {
    return {"loss",    "frozen_loss", "visible_mean_loss", "copy_last_loss",
            "sum_red", "sum_green",   "sum_blue",          "squares"};
  }

  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const model::BlockRunner runner;
    const Split split = to_device(split_tokens(batch.positions));
    const at::Tensor patches = model::patchify(batch.video, grid_);
    const at::Tensor wanted = target(patches, split).to(at::kDouble);
    const at::Tensor frozen =
        model::patchify(batch.video.select(2, 0).unsqueeze(2).expand(batch.video.sizes()), grid_);
    const int64_t b = wanted.size(0);
    at::Tensor rows = at::full({b, 8}, std::nan(""), wanted.options());
    rows.select(1, 0).copy_(clip_losses(predict(patches, split, runner).to(at::kDouble), wanted));
    rows.select(1, 1).copy_(clip_losses(predict(frozen, split, runner).to(at::kDouble), wanted));
    if (!options_.norm_pix_loss) {
      rows.select(1, 2).copy_(clip_losses(visible_mean(patches, split), wanted));
      if (options_.mask.kind == "future")
        rows.select(1, 3).copy_(clip_losses(copy_last(batch.video, split), wanted));
    }
    const at::Tensor by_channel = wanted.reshape({b, -1, 3});
    rows.narrow(1, 4, 3).copy_(by_channel.sum(1));
    rows.select(1, 7).copy_(wanted.square().flatten(1).sum(1));
    return rows.cpu();
  }

  at::Tensor features(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const at::Tensor ids = model::all_tokens(batch.video.size(0), grid_, parameters_.device());
    const at::Tensor patches = model::take_patches(batch.video, ids, grid_, parameters_.dtype());
    return mean_over_views(model_.encoder().forward(patches, ids, {}, model::BlockRunner()),
                           batch.views)
        .cpu();
  }

  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    const int64_t n = rows.size(0);
    const double values = double(hidden_ * grid_.patch_values());  // of one clip
    const auto mean_of = [&](int64_t column) {
      return rows.select(1, column).mean().item<double>();
    };
    // The best constant is the mean of each channel over all clips that are evaluated: what a model
    // that learned nothing but the average would reach at best.
    const at::Tensor means = rows.narrow(1, 4, 3).sum(0) / (double(n) * values / 3);
    const at::Tensor constant = (rows.select(1, 7) - 2 * at::matmul(rows.narrow(1, 4, 3), means) +
                                 values / 3 * means.square().sum()) /
                                values;
    const at::Tensor gain = constant - rows.select(1, 0);
    nlohmann::ordered_json out;
    out["clips"] = n;
    out["loss"] = mean_of(0);
    out["constant_loss"] = constant.mean().item<double>();
    if (n > 1) {
      const double error = gain.std().item<double>() / std::sqrt(double(n));
      out["gain_over_constant"] = gain.mean().item<double>();
      out["gain_standard_error"] = error;
    }
    const char* names[] = {"", "frozen_loss", "visible_mean_loss", "copy_last_loss"};
    for (int64_t column = 1; column < 4; ++column)
      if (const double value = mean_of(column); !std::isnan(value)) out[names[column]] = value;
    out["frozen_over_loss"] = mean_of(1) / mean_of(0);
    return out;
  }

  std::string start_from(const Weights& weights) override {
    const auto& tensors = weights.model;
    const auto unmatched = parameters_.load(tensors);
    refuse_lost_positions(unmatched.unused);
    for (const std::string& name : unmatched.missing)
      if (name.rfind("videomae.", 0) == 0)
        fail(ErrorKind::kData, "init_from: the checkpoint has no {}", name);
    return fmt::format("{} tensors taken, {} initialised, {} of the checkpoint unused",
                       tensors.size() - unmatched.unused.size(), unmatched.missing.size(),
                       unmatched.unused.size());
  }

  nlohmann::ordered_json config() const override {
    return model::videomae_config(options_.vit, &options_.decoder, grid_, options_.norm_pix_loss,
                                  {});
  }

  std::vector<model::NamedTensor> fields(const MicroBatch& batch) override {
    at::Tensor mask = at::zeros({int64_t(batch.positions.size()), grid_.count()}, at::kBool);
    mask.scatter_(1, split_tokens(batch.positions).masked, true);
    return {{"mask", mask}};
  }

  at::Tensor picture(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    const Split split = to_device(split_tokens(batch.positions));
    const at::Tensor patches = model::patchify(batch.video, grid_);
    at::Tensor predicted =
        model::channels_first(predict(patches, split, model::BlockRunner()), grid_);
    const at::Tensor truth = pixels(patches, split.masked);
    if (options_.norm_pix_loss) {
      // The model predicts each patch up to its own mean and spread: lend it the true ones.
      const auto shape = truth.sizes().vec();
      const at::Tensor x = truth.view({shape[0], shape[1], 3, -1});
      const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{3}, 1, true);
      predicted = (predicted.view_as(x) * (variance.sqrt() + 1e-6) + mean).view(shape);
    }
    if (in_imagenet_units()) {
      const at::Tensor mean = model::by_channel(model::kImageNetMean, truth);
      const at::Tensor std = model::by_channel(model::kImageNetStd, truth);
      const auto shape = predicted.sizes().vec();
      predicted = (predicted.view({shape[0], shape[1], 3, -1}) * std + mean).view(shape);
    }
    const at::Tensor index = split.masked.unsqueeze(2).expand({-1, -1, patches.size(2)});
    const at::Tensor hidden = patches.scatter(1, index, 128);
    const at::Tensor filled =
        patches.scatter(1, index, predicted.mul(255).round().clamp(0, 255).to(at::kByte));
    return at::stack(
               {batch.video, model::unpatchify(hidden, grid_), model::unpatchify(filled, grid_)}, 1)
        .cpu();
  }

  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const auto& d = options_.decoder;
    const int64_t k = grid_.count() - hidden_, said = said_count();
    const double embed = 2.0 * double(k) * double(grid_.patch_values()) * double(v.width);
    const double head = 2.0 * double(said) * double(grid_.patch_values()) * double(d.width);
    return 3 * (embed + head + model::blocks_flops(v.depth, k, v.width, v.mlp_width()) +
                model::blocks_flops(d.depth, k + said, d.width,
                                    int64_t(double(d.width) * v.mlp_ratio)));
  }
  std::vector<PartSize> part_sizes() override {
    const int64_t encoder = parameters_.count("videomae.");
    return {{"encoder", encoder, true}, {"decoder", parameters_.count() - encoder, true}};
  }
  double activations_per_clip() const override {
    const auto& v = options_.vit;
    const auto& d = options_.decoder;
    const int64_t k = grid_.count() - hidden_, said = said_count();
    // Visible patches; of the tokens that are said the prediction, the target and their difference.
    return double((k + 3 * said) * grid_.patch_values()) +
           model::blocks_activations(v.depth, k, v.width, v.mlp_width()) +
           model::blocks_activations(d.depth, k + said, d.width,
                                     int64_t(double(d.width) * v.mlp_ratio));
  }

 private:
  // Tokens that the decoder has to say in training.
  int64_t said_count() const {
    const double ratio = options_.decoder_mask.ratio;
    return ratio > 0 ? std::llround(double(grid_.count()) * (1 - ratio)) : hidden_;
  }

  Split split_tokens(const std::vector<int64_t>& positions) const {
    const int64_t b = int64_t(positions.size()), n = grid_.count();
    Split split{at::empty({b, n - hidden_}, at::kLong), at::empty({b, hidden_}, at::kLong)};
    int64_t* visible = split.visible.data_ptr<int64_t>();
    int64_t* masked = split.masked.data_ptr<int64_t>();
    for (int64_t position : positions) {
      const std::vector<bool> mask = make_mask(options_.mask, grid_, seed_, position);
      for (int64_t i = 0; i < n; ++i) *(mask[size_t(i)] ? masked : visible)++ = i;
    }
    return split;
  }

  // VideoMAE v2: the decoder gets mask tokens at every place that its own mask leaves, and the loss
  // counts those that the encoder did not see.
  Split split_for_decoder(const std::vector<int64_t>& positions) const {
    const int64_t b = int64_t(positions.size());
    Split split{split_tokens(positions).visible, {}, {}};
    std::vector<int64_t> said;
    std::vector<int64_t> counted;
    for (int64_t position : positions) {
      const auto hidden = make_mask(options_.mask, grid_, seed_, position);
      const auto left_out = make_decoder_mask(options_.decoder_mask, grid_, seed_, position);
      for (size_t i = 0; i < hidden.size(); ++i) {
        if (left_out[i]) continue;
        said.push_back(int64_t(i));
        counted.push_back(hidden[i] ? 1 : 0);
      }
    }
    split.masked = at::tensor(said, at::kLong).view({b, -1});
    split.counted = at::tensor(counted, at::kLong).view({b, -1});
    return split;
  }

  // What the CPU drew, where the model is.
  Split to_device(const Split& split) const {
    const auto there =
        model::upload_all({split.visible, split.masked, split.counted}, parameters_.device());
    return {there[0], there[1], there[2]};
  }

  at::Tensor predict(const at::Tensor& patches, const Split& split,
                     const model::BlockRunner& runner) const {
    const at::Tensor seen = model::normalise_patches(model::gather_tokens(patches, split.visible),
                                                     grid_, parameters_.dtype());
    return model_.forward(seen, split.visible, split.masked, runner);
  }

  bool in_imagenet_units() const {
    return !options_.norm_pix_loss && options_.pixel_target == "imagenet";
  }

  model::TargetUnit target_unit() const {
    if (options_.norm_pix_loss) return model::TargetUnit::kPatch;
    return in_imagenet_units() ? model::TargetUnit::kImageNet : model::TargetUnit::kUnit;
  }

  // The patches `ids` in the units of the target: [0, 1], or minus ImageNet's mean and over its
  // std.
  at::Tensor pixels(const at::Tensor& patches, const at::Tensor& ids) const {
    const at::Tensor chosen = model::gather_tokens(patches, ids);
    if (in_imagenet_units()) return model::normalise_patches(chosen, grid_, parameters_.dtype());
    return chosen.to(parameters_.dtype()).div_(255);
  }

  at::Tensor target(const at::Tensor& patches, const Split& split) const {
    return model::videomae_target(pixels(patches, split.masked), grid_, options_.norm_pix_loss);
  }

  // Each clip's mean squared error, [b].
  static at::Tensor clip_losses(const at::Tensor& predicted, const at::Tensor& wanted) {
    return (predicted - wanted).square().flatten(1).mean(1);
  }

  // Every hidden pixel is the mean of the clip's visible ones, channel by channel.
  at::Tensor visible_mean(const at::Tensor& patches, const Split& split) const {
    const int64_t b = patches.size(0);
    const at::Tensor mean = pixels(patches, split.visible)
                                .to(at::kDouble)
                                .view({b, -1, 3, grid_.patch_values() / 3})
                                .mean(at::IntArrayRef{1, 3});  // [b, 3]
    return mean.view({b, 1, 1, 3})
        .expand({b, hidden_, grid_.patch_values() / 3, 3})
        .reshape({b, hidden_, -1});
  }

  // Every hidden frame is the last visible one.
  at::Tensor copy_last(const at::Tensor& video, const Split& split) const {
    const int64_t seen =
        (grid_.count() - hidden_) / (grid_.rows * grid_.columns) * grid_.tubelet_size;
    const at::Tensor still = video.select(2, seen - 1).unsqueeze(2).expand(video.sizes());
    return model::videomae_target(pixels(model::patchify(still, grid_), split.masked), grid_, false)
        .to(at::kDouble);
  }

  MaskedAutoencodingOptions options_;
  uint64_t seed_;
  TokenGrid grid_;
  int64_t hidden_;
  model::Parameters parameters_;
  model::VideoMaePretraining model_;
};

}  // namespace

void MaskedAutoencodingOptions::bind(config::Binder& b) {
  vit.bind(b, model::Family::kVideoMae);
  if (b.is_reading()) {
    // Published decoders: half the encoder's width, heads of 64, 4 blocks (12 for large and huge).
    decoder.width = vit.width / 2;
    decoder.heads = std::max<int64_t>(1, decoder.width / 64);
    decoder.depth = vit.model == "large" || vit.model == "huge" ? 12 : 4;
    if (vit.model == "huge") decoder.heads = 8;
    if (vit.model == "giant") {  // VideoMAE v2
      decoder.width = 512;
      decoder.heads = 8;
    }
  }
  b.key("decoder_width", decoder.width, "decoder channels").range(1, 1 << 16);
  b.key("decoder_depth", decoder.depth, "decoder blocks").range(1, 1024);
  b.key("decoder_heads", decoder.heads, "decoder attention heads").range(1, 1024);
  if (decoder.width % decoder.heads != 0)
    b.refuse("decoder_width",
             fmt::format("is not a multiple of decoder_heads = {}", decoder.heads));
  b.choice("mask", mask.kind, {"tube", "random", "future"},
           "tube (same places at all times), random, or future (the end of the clip)");
  b.key("mask_ratio", mask.ratio, "share of tokens that is hidden").range(0.01, 0.99);
  b.key("decoder_mask_ratio", decoder_mask.ratio,
        "VideoMAE v2: share of tokens the decoder leaves out; 0, 0.25, 0.5 or 0.75")
      .range(0, 0.75);
  if (decoder_mask.ratio * 4 != std::floor(decoder_mask.ratio * 4))
    b.refuse("decoder_mask_ratio", "must be 0, 0.25, 0.5 or 0.75: so many of 2 x 2 tokens");
  b.key("norm_pix_loss", norm_pix_loss, "predict each patch up to its own mean and spread");
  b.choice("pixel_target", pixel_target, {"unit", "imagenet"},
           "without norm_pix_loss: pixels in [0, 1], or minus ImageNet's mean over its std");
}

std::unique_ptr<Objective> MaskedAutoencodingOptions::make(const ObjectiveContext& context) const {
  return std::make_unique<MaskedAutoencoding>(*this, context);
}

}  // namespace keiko::objective
