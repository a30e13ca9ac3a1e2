#include "model/vjepa2.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "model/linear.h"

namespace keiko::model {
namespace {

// Truncated normal of 0.02; what is added to the residual stream by block i (from 0) is divided by
// sqrt(2 (i + 1)), as in the original code.
BlockShape block_shape(const VitOptions& o, int64_t width, int64_t mlp_width, int64_t heads,
                       int64_t layer) {
  BlockShape shape = shape_of_blocks(o, width, mlp_width, heads);
  shape.bias = o.qkv_bias ? AttentionBias::kAll : AttentionBias::kNone;
  shape.residual_scale = shape.scale / std::sqrt(2.0 * double(layer + 1));
  return shape;
}

Linear trunc_normal_linear(Parameters& parameters, const std::string& name, int block, int64_t in,
                           int64_t out) {
  return declare_linear(parameters, name, block, in, out, Init::kTruncNormal, 0.02);
}

at::Tensor declare_frequencies(Parameters& parameters, int64_t head_width,
                               const std::string& order) {
  const at::Tensor frequencies = rope_frequencies(head_width, order);
  return frequencies.defined() ? parameters.declare_table(frequencies) : frequencies;
}

}  // namespace

VJepa2Encoder::VJepa2Encoder(Parameters& parameters, const VitOptions& o, int64_t side,
                             const std::string& prefix)
    : options_(o), side_(side) {
  embed_ = declare_patch_embedding(parameters, prefix + "encoder.embeddings.patch_embeddings.proj",
                                   o, Init::kTruncNormal);
  frequencies_ = declare_frequencies(parameters, o.width / o.heads, o.positions);
  for (int64_t i = 0; i < o.depth; ++i)
    blocks_.push_back(declare_block(parameters, fmt::format("{}encoder.layer.{}", prefix, i),
                                    int(1 + i), kVJepa2Names,
                                    block_shape(o, o.width, o.mlp_width(), o.heads, i)));
  norm_ = declare_norm(parameters, prefix + "encoder.layernorm", int(o.depth), o.width,
                       o.layer_norm_eps);
}

at::Tensor VJepa2Encoder::forward(const at::Tensor& patches, const at::Tensor& ids,
                                  const at::Tensor& keep, const BlockRunner& runner) const {
  const Rotation rotation = make_rotation(ids, frequencies_, side_, patches.scalar_type());
  at::Tensor x = apply_linear(patches, embed_.weight.flatten(1), embed_.bias);
  for (size_t i = 0; i < blocks_.size(); ++i)
    x = runner.run(
        int(1 + i),
        [this, i, keep, rotation](const at::Tensor& in) {
          return blocks_[i].forward(in, keep_of_block(keep, int64_t(i)), rotation);
        },
        x);
  return norm_.forward(x);
}

VJepa2Predictor::VJepa2Predictor(Parameters& parameters, const VitOptions& e,
                                 const PredictorOptions& o, int64_t side, const std::string& prefix)
    : encoder_(e),
      options_(o),
      side_(side),
      first_block_(int(e.depth) + 1),
      prefix_(prefix + "predictor.") {
  embed_ = trunc_normal_linear(parameters, prefix_ + "embeddings.predictor_embeddings",
                               first_block_, e.width, o.width);
  mask_tokens_ = parameters.declare({prefix_ + "embeddings.mask_tokens",
                                     {o.mask_tokens, 1, 1, o.width},
                                     first_block_,
                                     false,
                                     Init::kZeros});
  frequencies_ = declare_frequencies(parameters, o.width / o.heads, e.positions);
  for (int64_t i = 0; i < o.depth; ++i)
    blocks_.push_back(declare_block(
        parameters, fmt::format("{}layer.{}", prefix_, i), first_block_ + int(i), kVJepa2Names,
        block_shape(e, o.width, int64_t(double(o.width) * o.mlp_ratio), o.heads, i)));
  const int last = first_block_ + int(o.depth) - 1;
  norm_ = declare_norm(parameters, prefix_ + "layernorm", last, o.width, e.layer_norm_eps);
  proj_ = trunc_normal_linear(parameters, prefix_ + "proj", last, o.width, e.width);
}

VJepa2Predictor::Prediction VJepa2Predictor::forward(const at::Tensor& context,
                                                     const at::Tensor& context_ids,
                                                     const at::Tensor& target_ids,
                                                     const Linear& context_proj,
                                                     const BlockRunner& runner) const {
  const int64_t k = context_ids.size(1), m = target_ids.size(1);
  const at::Tensor seen = embed_.forward(context);
  const at::Tensor token = mask_tokens_[options_.mask_token % options_.mask_tokens]
                               .to(seen.scalar_type())
                               .expand({seen.size(0), m, options_.width});
  const Rotation rotation = make_rotation(at::cat({context_ids, target_ids}, 1), frequencies_,
                                          side_, mask_tokens_.scalar_type());
  at::Tensor x = at::cat({seen, token}, 1);
  // Unless the context tokens are said, too, the last block computes the target's alone.
  const int64_t unread = context_proj.weight.defined() ? 0 : k;
  for (size_t i = 0; i < blocks_.size(); ++i)
    x = runner.run(
        first_block_ + int(i),
        [this, i, rotation, unread](const at::Tensor& in) {
          return blocks_[i].forward(in, {}, rotation, i + 1 == blocks_.size() ? unread : 0);
        },
        x);
  if (!context_proj.weight.defined()) return {proj_.forward(norm_.forward(x)), {}};
  const at::Tensor all = norm_.forward(x);
  return {proj_.forward(all.narrow(1, k, m)), context_proj.forward(all.narrow(1, 0, k))};
}

std::vector<NamedTensor> VJepa2Predictor::for_export(std::vector<NamedTensor> tensors) const {
  const int64_t used = options_.mask_token % options_.mask_tokens;
  const int64_t read = 1 % options_.mask_tokens;
  if (used == read) return tensors;
  for (auto& [name, tensor] : tensors)
    if (name == prefix_ + "embeddings.mask_tokens") {
      tensor = tensor.clone();
      tensor[read].copy_(tensor[used]);
    }
  return tensors;
}

VJepa2Classifier::VJepa2Classifier(Parameters& parameters, const VitOptions& o, int64_t side,
                                   const PoolerOptions& pooler, int64_t classes)
    : encoder_(parameters, o, side, "vjepa2."),
      pooler_(parameters, "pooler", int(o.depth) + 1, o.width, pooler) {
  classifier_ =
      trunc_normal_linear(parameters, "classifier", pooler_.last_block() + 1, o.width, classes);
}

at::Tensor VJepa2Classifier::forward(const at::Tensor& patches, const at::Tensor& ids,
                                     const at::Tensor& keep, const BlockRunner& runner) const {
  return classify(pooler_.forward(encoder_.forward(patches, ids, keep, runner), runner));
}

at::Tensor vjepa2_target(const at::Tensor& tokens, double eps) {
  return at::layer_norm(tokens.detach(), {tokens.size(-1)}, {}, {}, eps);
}

nlohmann::ordered_json vjepa2_config(const VitOptions& vit, const PredictorOptions* predictor,
                                     const PoolerOptions* pooler, int64_t crop_size,
                                     int64_t num_frames,
                                     const std::vector<std::string>& class_names) {
  nlohmann::ordered_json c;
  c["architectures"] = {pooler != nullptr ? "VJEPA2ForVideoClassification" : "VJEPA2Model"};
  c["model_type"] = "vjepa2";
  c["patch_size"] = vit.patch_size;
  c["crop_size"] = crop_size;
  c["image_size"] = crop_size;
  c["frames_per_clip"] = num_frames;
  c["tubelet_size"] = vit.tubelet_size;
  c["in_chans"] = 3;
  c["hidden_size"] = vit.width;
  c["num_hidden_layers"] = vit.depth;
  c["num_attention_heads"] = vit.heads;
  c["mlp_ratio"] = vit.mlp_ratio;
  c["hidden_act"] = vit.tanh_gelu ? "gelu_pytorch_tanh" : "gelu";
  c["qkv_bias"] = vit.qkv_bias;
  c["hidden_dropout_prob"] = 0.0;
  c["attention_probs_dropout_prob"] = 0.0;
  c["attention_dropout"] = 0.0;
  c["drop_path_rate"] = 0.0;
  c["initializer_range"] = 0.02;
  c["layer_norm_eps"] = vit.layer_norm_eps;
  if (predictor != nullptr) {
    c["pred_hidden_size"] = predictor->width;
    c["pred_num_hidden_layers"] = predictor->depth;
    c["pred_num_attention_heads"] = predictor->heads;
    c["pred_mlp_ratio"] = predictor->mlp_ratio;
    c["pred_num_mask_tokens"] = predictor->mask_tokens;
    c["pred_zero_init_mask_tokens"] = true;
    c["keiko_mask_token"] = predictor->mask_token % predictor->mask_tokens;
  }
  if (pooler != nullptr) c["num_pooler_layers"] = pooler->depth;
  c["keiko_positions"] = vit.positions;
  for (size_t i = 0; i < class_names.size(); ++i) {
    c["id2label"][std::to_string(i)] = class_names[i];
    c["label2id"][class_names[i]] = i;
  }
  return c;
}

}  // namespace keiko::model
