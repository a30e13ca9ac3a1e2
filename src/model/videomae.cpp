#include "model/videomae.h"

#include <ATen/ATen.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "model/linear.h"

namespace keiko::model {
namespace {

int64_t decoder_mlp_width(const DecoderOptions& d, const VitOptions& e) {
  return d.mlp_width > 0 ? d.mlp_width : int64_t(double(d.width) * e.mlp_ratio);
}

BlockShape block_shape(const VitOptions& o, int64_t width, int64_t mlp_width, int64_t heads) {
  BlockShape shape = shape_of_blocks(o, width, mlp_width, heads);
  shape.bias = o.qkv_bias ? AttentionBias::kQueryValue : AttentionBias::kNone;
  shape.init = Init::kXavierUniform;
  return shape;
}

}  // namespace

VideoMaeEncoder::VideoMaeEncoder(Parameters& parameters, const VitOptions& o, const TokenGrid& grid,
                                 bool has_final_norm)
    : options_(o), has_final_norm_(has_final_norm) {
  embed_ = declare_patch_embedding(parameters, "videomae.embeddings.patch_embeddings.projection", o,
                                   Init::kXavierUniform);
  positions_ =
      o.positions == "learned"
          ? parameters.declare({"videomae.embeddings.position_embeddings",
                                {1, grid.count(), o.width},
                                0,
                                false,
                                Init::kTruncNormal})
          : parameters.declare_table(sinusoid_table(grid.count(), o.width, parameters.dtype()));
  for (int64_t i = 0; i < o.depth; ++i)
    blocks_.push_back(declare_block(parameters, fmt::format("videomae.encoder.layer.{}", i),
                                    int(1 + i), kVideoMaeNames,
                                    block_shape(o, o.width, o.mlp_width(), o.heads)));
  if (has_final_norm)
    norm_ = declare_norm(parameters, "videomae.layernorm", int(o.depth), o.width, o.layer_norm_eps);
}

at::Tensor VideoMaeEncoder::forward(const at::Tensor& patches, const at::Tensor& ids,
                                    const at::Tensor& keep, const BlockRunner& runner) const {
  // A Conv3d whose stride is its kernel is one product with the flattened patches.
  at::Tensor x = apply_linear(patches, embed_.weight.flatten(1), embed_.bias) +
                 positions_[0].index_select(0, ids.flatten()).view({ids.size(0), ids.size(1), -1});
  for (size_t i = 0; i < blocks_.size(); ++i)
    x = runner.run(
        int(1 + i),
        [this, i, keep](const at::Tensor& in) {
          return blocks_[i].forward(in, keep_of_block(keep, int64_t(i)), {});
        },
        x);
  return has_final_norm_ ? norm_.forward(x) : x;
}

VideoMaePretraining::VideoMaePretraining(Parameters& parameters, const VitOptions& e,
                                         const DecoderOptions& d, const TokenGrid& grid)
    : encoder_(parameters, e, grid, d.final_norm), options_(d), first_block_(int(e.depth) + 1) {
  to_decoder_ =
      declare_linear(parameters, "encoder_to_decoder", first_block_, e.width, d.width, false);
  mask_token_ =
      parameters.declare({"mask_token", {1, 1, d.width}, first_block_, false, Init::kTruncNormal});
  positions_ =
      e.positions == "learned"
          ? parameters.declare({"decoder.position_embeddings",
                                {1, grid.count(), d.width},
                                first_block_,
                                false,
                                Init::kTruncNormal})
          : parameters.declare_table(sinusoid_table(grid.count(), d.width, parameters.dtype()));
  for (int64_t i = 0; i < d.depth; ++i)
    blocks_.push_back(declare_block(parameters, fmt::format("decoder.decoder_layers.{}", i),
                                    first_block_ + int(i), kVideoMaeNames,
                                    block_shape(e, d.width, decoder_mlp_width(d, e), d.heads)));
  const int last = first_block_ + int(d.depth) - 1;
  norm_ = declare_norm(parameters, "decoder.norm", last, d.width, d.norm_eps);
  head_ = declare_linear(parameters, "decoder.head", last, d.width, grid.patch_values());
}

at::Tensor VideoMaePretraining::forward(const at::Tensor& patches, const at::Tensor& visible,
                                        const at::Tensor& masked, const BlockRunner& runner) const {
  const int64_t b = visible.size(0), k = visible.size(1), m = masked.size(1);
  const auto positions_at = [&](const at::Tensor& ids) {
    return positions_[0].index_select(0, ids.flatten()).view({b, ids.size(1), options_.width});
  };
  const at::Tensor seen =
      to_decoder_.forward(encoder_.forward(patches, visible, {}, runner)) + positions_at(visible);
  const at::Tensor hidden = mask_token_.to(seen.scalar_type()) + positions_at(masked);
  at::Tensor x = at::cat({seen, hidden.to(seen.scalar_type())}, 1);
  for (size_t i = 0; i < blocks_.size(); ++i)
    x = runner.run(
        first_block_ + int(i),
        [this, i, k](const at::Tensor& in) {
          // The head reads masked tokens alone, so the last block computes no others.
          return blocks_[i].forward(in, {}, {}, i + 1 == blocks_.size() ? k : 0);
        },
        x);
  return head_.forward(norm_.forward(x.narrow(1, x.size(1) - m, m)));
}

VideoMaeClassifier::VideoMaeClassifier(Parameters& parameters, const VitOptions& o,
                                       const TokenGrid& grid, const VideoMaeHeadOptions& head)
    : encoder_(parameters, o, grid, !head.mean_pooling),
      mean_pooling_(head.mean_pooling),
      all_ids_(parameters.declare_table(all_tokens(1, grid))) {
  const int last = int(o.depth) + 1;
  if (mean_pooling_) fc_norm_ = declare_norm(parameters, "fc_norm", last, o.width, head.norm_eps);
  // VideoMAE's fine-tuning starts the head near zero: trunc_normal(0.02) times 0.001.
  classifier_ = declare_linear(parameters, "classifier", last, o.width, head.classes,
                               Init::kTruncNormal, 2e-5);
}

at::Tensor VideoMaeClassifier::pool(const at::Tensor& tokens) const {
  return mean_pooling_ ? fc_norm_.forward(tokens.mean(1)) : tokens.select(1, 0);
}

at::Tensor VideoMaeClassifier::forward(const at::Tensor& patches, const at::Tensor& keep,
                                       const BlockRunner& runner) const {
  const at::Tensor ids = all_ids_.expand({patches.size(0), -1});
  return classify(pool(encoder_.forward(patches, ids, keep, runner)));
}

at::Tensor videomae_target(const at::Tensor& pixels, const TokenGrid& g, bool normalise) {
  at::Tensor x = pixels.view({pixels.size(0), pixels.size(1), 3, g.patch_values() / 3});
  if (normalise) {
    const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{3}, /*correction=*/1, true);
    x = (x - mean) / (variance.sqrt() + 1e-6);
  }
  return x.transpose(2, 3).reshape(pixels.sizes());
}

at::Tensor channels_first(const at::Tensor& target, const TokenGrid& g) {
  return target.view({target.size(0), target.size(1), g.patch_values() / 3, 3})
      .transpose(2, 3)
      .reshape(target.sizes());
}

nlohmann::ordered_json videomae_config(const VitOptions& vit, const DecoderOptions* decoder,
                                       const TokenGrid& grid, bool normalised_target,
                                       const std::vector<std::string>& class_names) {
  nlohmann::ordered_json c;
  c["architectures"] = {decoder != nullptr ? "VideoMAEForPreTraining"
                                           : "VideoMAEForVideoClassification"};
  c["model_type"] = "videomae";
  if (grid.rows == grid.columns)
    c["image_size"] = grid.rows * grid.patch_size;
  else
    c["image_size"] = {grid.rows * grid.patch_size, grid.columns * grid.patch_size};
  c["num_frames"] = grid.times * grid.tubelet_size;
  c["num_channels"] = 3;
  c["patch_size"] = vit.patch_size;
  c["tubelet_size"] = vit.tubelet_size;
  c["hidden_size"] = vit.width;
  c["num_hidden_layers"] = vit.depth;
  c["num_attention_heads"] = vit.heads;
  c["intermediate_size"] = vit.mlp_width();
  c["hidden_act"] = vit.tanh_gelu ? "gelu_pytorch_tanh" : "gelu";
  c["hidden_dropout_prob"] = 0.0;
  c["attention_probs_dropout_prob"] = 0.0;
  c["initializer_range"] = 0.02;
  c["layer_norm_eps"] = vit.layer_norm_eps;
  c["qkv_bias"] = vit.qkv_bias;  // until transformers 5.17; qv_bias since
  c["qv_bias"] = vit.qkv_bias;
  c["use_mean_pooling"] = decoder == nullptr || !decoder->final_norm;
  c["norm_pix_loss"] = normalised_target;
  if (decoder != nullptr) {
    c["decoder_hidden_size"] = decoder->width;
    c["decoder_num_hidden_layers"] = decoder->depth;
    c["decoder_num_attention_heads"] = decoder->heads;
    c["decoder_intermediate_size"] = decoder_mlp_width(*decoder, vit);
  }
  c["keiko_positions"] = vit.positions;
  if (!class_names.empty())
    for (size_t i = 0; i < class_names.size(); ++i) {
      c["id2label"][std::to_string(i)] = class_names[i];
      c["label2id"][class_names[i]] = i;
    }
  return c;
}

}  // namespace keiko::model
