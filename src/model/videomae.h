// VideoMAE (Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
// Self-Supervised Video Pre-Training", 2022): encoder, pretraining decoder, classifier.
//
// Formulas and parameter names are those of transformers' VideoMAE classes, so that weights go in
// and out unchanged; what they compute is fixed by the golden fixtures.

#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "model/block.h"
#include "model/block_runner.h"
#include "model/vit.h"

namespace keiko::model {

// The encoder on a subset of tokens.
class VideoMaeEncoder {
 public:
  // `has_final_norm`: a LayerNorm after the last block (pretraining); classifiers have fc_norm.
  VideoMaeEncoder(Parameters& parameters, const VitOptions& options, const TokenGrid& grid,
                  bool has_final_norm);

  // `patches`: normalised, [B, K, P]; `ids`: their token indices, [B, K] int64, raster order.
  // `keep` is undefined or [depth, 2, B] (drop-path). Returns [B, K, D].
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& ids, const at::Tensor& keep,
                     const BlockRunner& runner) const;
  const VitOptions& options() const { return options_; }

 private:
  VitOptions options_;
  Linear embed_;
  at::Tensor positions_;  // [1, N, D]; a parameter when learned
  std::vector<Block> blocks_;
  LayerNorm norm_;
  bool has_final_norm_;
};

struct DecoderOptions {
  int64_t width = 384, depth = 4, heads = 6;
  int64_t mlp_width = 0;   // 0: width times the encoder's mlp_ratio
  double norm_eps = 1e-5;  // of decoder.norm, which ignores layer_norm_eps
  bool final_norm = true;  // LayerNorm after the encoder (published: use_mean_pooling false)
};

// Encoder on visible tokens, light decoder on all, pixels of the masked ones.
class VideoMaePretraining {
 public:
  VideoMaePretraining(Parameters& parameters, const VitOptions& encoder,
                      const DecoderOptions& decoder, const TokenGrid& grid);

  // `patches`: normalised visible patches [B, K, P]; `visible` [B, K] and `masked` [B, M] split the
  // token indices. Returns the prediction for the masked tokens, [B, M, P] in the order frame, row,
  // column, channel.
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& visible, const at::Tensor& masked,
                     const BlockRunner& runner) const;
  const VideoMaeEncoder& encoder() const { return encoder_; }

 private:
  VideoMaeEncoder encoder_;
  DecoderOptions options_;
  int first_block_;  // number of the decoder's first block in the flat buffers
  Linear to_decoder_;
  at::Tensor mask_token_, positions_;
  std::vector<Block> blocks_;
  LayerNorm norm_;
  Linear head_;
};

struct VideoMaeHeadOptions {
  int64_t classes = 0;
  bool mean_pooling = true;  // fc_norm of the mean token; else the first token after a final norm
  double norm_eps = 1e-5;    // of fc_norm, which ignores layer_norm_eps
};

// Mean of all tokens, fc_norm, linear head.
class VideoMaeClassifier {
 public:
  VideoMaeClassifier(Parameters& parameters, const VitOptions& options, const TokenGrid& grid,
                     const VideoMaeHeadOptions& head);
  // [B, N, P] normalised patches of all tokens -> logits [B, classes].
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& keep,
                     const BlockRunner& runner) const;
  // Tokens [B, N, D] as the encoder leaves them -> what the classifier sees, [B, D].
  at::Tensor pool(const at::Tensor& tokens) const;
  const VideoMaeEncoder& encoder() const { return encoder_; }
  const at::Tensor& all_ids() const { return all_ids_; }
  at::Tensor classify(const at::Tensor& pooled) const { return classifier_.forward(pooled); }

 private:
  VideoMaeEncoder encoder_;
  bool mean_pooling_;
  at::Tensor all_ids_;  // [1, N]
  LayerNorm fc_norm_;
  Linear classifier_;
};

// Pixels in [0, 1] as patches [B, M, P] (channel first) -> targets [B, M, P] in the order frame,
// row, column, channel. `normalise`: per patch and channel, minus mean, over sqrt(unbiased
// variance)+1e-6.
at::Tensor videomae_target(const at::Tensor& pixels, const TokenGrid& grid, bool normalise);
// The inverse of the order alone: [B, M, P] frame, row, column, channel -> channel first.
at::Tensor channels_first(const at::Tensor& target, const TokenGrid& grid);

// The config.json that transformers reads. `decoder` may be null (classifier).
nlohmann::ordered_json videomae_config(const VitOptions& vit, const DecoderOptions* decoder,
                                       const TokenGrid& grid, bool normalised_target,
                                       const std::vector<std::string>& class_names);

}  // namespace keiko::model
