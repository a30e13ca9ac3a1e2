// V-JEPA 2 (Assran et al., "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction
// and Planning", 2025): encoder, predictor, attentive-pooler classifier.
//
// Formulas and parameter names are those of transformers' VJEPA2 classes, so that weights go in and
// out unchanged; what they compute is fixed by the golden fixtures. The encoder runs on any subset
// of tokens: positions enter as rotations by each token's own index.

#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/attentive_pooler.h"
#include "model/block.h"
#include "model/block_runner.h"
#include "model/vit.h"

namespace keiko::model {

class VJepa2Encoder {
 public:
  // `side`: tokens along the square that positions are counted in (published: crop_size /
  // patch_size). `prefix`: "" or "vjepa2.". Its blocks are 1 ... depth in the flat buffers, the
  // patch embedding is in 0.
  VJepa2Encoder(Parameters& parameters, const VitOptions& options, int64_t side,
                const std::string& prefix);

  // `patches`: normalised, [B, K, P]; `ids`: their token indices, [B, K] int64, any order, repeats
  // allowed. `keep` is undefined or [depth, 2, B] (drop-path). Returns [B, K, D] after the final
  // norm.
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& ids, const at::Tensor& keep,
                     const BlockRunner& runner) const;
  const VitOptions& options() const { return options_; }

 private:
  VitOptions options_;
  int64_t side_;
  Linear embed_;
  at::Tensor frequencies_;  // see rope_frequencies()
  std::vector<Block> blocks_;
  LayerNorm norm_;
};

struct PredictorOptions {
  int64_t width = 384, depth = 12, heads = 12;
  double mlp_ratio = 4;
  int64_t mask_tokens = 10;  // that the published file has
  int64_t mask_token = 1;    // the one in use, modulo mask_tokens; transformers always reads 1
};

// From what the encoder made of the context to what the teacher made of the target tokens.
class VJepa2Predictor {
 public:
  // `encoder` gives the width at both ends, norms' eps and kind of positions. Its blocks follow the
  // encoder's in the flat buffers.
  VJepa2Predictor(Parameters& parameters, const VitOptions& encoder,
                  const PredictorOptions& options, int64_t side, const std::string& prefix);

  struct Prediction {
    at::Tensor target;   // [B, M, D], in the order of target_ids
    at::Tensor context;  // [B, K, D], or undefined without context_proj
  };
  // `context` [B, K, D]: encoder tokens at `context_ids` [B, K]; `target_ids` [B, M].
  // `context_proj`: what V-JEPA 2.1 says the context tokens with; empty: they are not said.
  Prediction forward(const at::Tensor& context, const at::Tensor& context_ids,
                     const at::Tensor& target_ids, const Linear& context_proj,
                     const BlockRunner& runner) const;
  const PredictorOptions& options() const { return options_; }
  // Copies the mask token in use into the slot that transformers reads (1 modulo mask_tokens), so
  // that an exported predictor runs with the token that was trained. `tensors` are published()
  // ones; returns copies.
  std::vector<NamedTensor> for_export(std::vector<NamedTensor> tensors) const;

 private:
  VitOptions encoder_;
  PredictorOptions options_;
  int64_t side_;
  int first_block_;
  std::string prefix_;
  Linear embed_, proj_;
  at::Tensor mask_tokens_;  // [n, 1, 1, width]
  at::Tensor frequencies_;  // see rope_frequencies()
  std::vector<Block> blocks_;
  LayerNorm norm_;
};

// Encoder, attentive pooler, linear head.
class VJepa2Classifier {
 public:
  VJepa2Classifier(Parameters& parameters, const VitOptions& options, int64_t side,
                   const PoolerOptions& pooler, int64_t classes);
  // Normalised patches [B, N, P] of all tokens and their `ids` [B, N] -> logits [B, classes].
  at::Tensor forward(const at::Tensor& patches, const at::Tensor& ids, const at::Tensor& keep,
                     const BlockRunner& runner) const;
  const VJepa2Encoder& encoder() const { return encoder_; }
  const AttentivePooler& pooler() const { return pooler_; }
  at::Tensor classify(const at::Tensor& pooled) const { return classifier_.forward(pooled); }

 private:
  VJepa2Encoder encoder_;
  AttentivePooler pooler_;
  Linear classifier_;
};

// What the predictor should say: the teacher's tokens [B, M, D] through a LayerNorm without
// parameters. `eps`: 1e-5 as published.
at::Tensor vjepa2_target(const at::Tensor& teacher_tokens, double eps = 1e-5);

// The config.json that transformers reads. `predictor` and `pooler` may be null.
nlohmann::ordered_json vjepa2_config(const VitOptions& vit, const PredictorOptions* predictor,
                                     const PoolerOptions* pooler, int64_t crop_size,
                                     int64_t num_frames,
                                     const std::vector<std::string>& class_names);

}  // namespace keiko::model
