#include "cli/model_folder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/json_text.h"
#include "objective/regression.h"
#include "train/checkpoint.h"

namespace keiko::cli {
namespace {

const model::TensorEntry* find_entry(const model::SafetensorsReader& reader,
                                     const std::string& name) {
  for (const model::TensorEntry& entry : reader.entries())
    if (entry.name == name) return &entry;
  return nullptr;
}

const model::StoredTensor* find_tensor(const model::StoredWeights& weights,
                                       const std::string& name) {
  for (const model::StoredTensor& tensor : weights.tensors())
    if (tensor.name == name) return &tensor;
  return nullptr;
}

// Of RUN/checkpoints/step-N: RUN, when that is a run folder; else "".
std::string run_of(Env* env, const std::string& checkpoint) {
  const std::filesystem::path path = std::filesystem::absolute(checkpoint).lexically_normal();
  const std::filesystem::path folder = path.has_filename() ? path : path.parent_path();
  const std::string run = folder.parent_path().parent_path().string();
  return folder.parent_path().filename() == "checkpoints" &&
                 env->status(run + "/recipe.yaml").exists
             ? run
             : "";
}

// "key: value, " of a recipe, unless the value is what the recipe has without it.
template <class T>
void add_key(std::string& keys, const char* name, const T& value, const T& otherwise) {
  if (value != otherwise) keys += fmt::format(", {}: {}", name, value);
}

}  // namespace

at::Tensor ModelSource::read(const model::StoredTensor& tensor) const {
  const model::TensorEntry* entry = ema ? find_entry(*ema, tensor.name) : nullptr;
  const at::Tensor value = entry != nullptr ? ema->read(*entry) : model.weights->read(tensor);
  const bool is_weight = tensor.name == "classifier.weight";
  if ((!is_weight && tensor.name != "classifier.bias") || !has_target_statistics()) return value;
  const auto statistic = [&](const char* name) {
    const at::Tensor found = model.weights->read(*find_tensor(*model.weights, name));
    if (found.dim() != 1 || found.size(0) != value.size(0))
      fail(ErrorKind::kData, "{}: {} and {} are not of the same size", model.path, name,
           tensor.name);
    return found.to(at::kDouble);
  };
  const at::Tensor std = statistic(objective::kTargetStd), mean = statistic(objective::kTargetMean);
  const at::Tensor scaled = value.to(at::kDouble) * (is_weight ? std.unsqueeze(1) : std);
  return (is_weight ? scaled : scaled + mean).to(value.scalar_type());
}

bool ModelSource::has_target_statistics() const {
  return find_tensor(*model.weights, objective::kTargetMean) != nullptr &&
         find_tensor(*model.weights, objective::kTargetStd) != nullptr;
}

ModelSource open_model(const std::string& path, int64_t step, const std::string& weights) {
  Env* env = default_env();
  if (!env->status(path).exists) fail(ErrorKind::kUsage, "{}: no such folder", path);
  std::string folder;
  if (step >= 0) {
    folder = path + "/checkpoints/" + train::checkpoint_name(step);
    if (!env->status(folder + "/COMMIT").exists) {
      std::string there;
      for (const std::string& name : train::list_checkpoints(env, path + "/checkpoints"))
        there += (there.empty() ? "" : ", ") + name;
      fail(ErrorKind::kUsage, "{}: no committed checkpoint of step {}; there are: {}", path, step,
           there.empty() ? "none" : there);
    }
  } else {
    folder = train::resolve_weights(env, path);
  }
  ModelSource source;
  source.model = model::read_hugging_face(env, folder);
  source.run_folder = run_of(env, folder);
  if (const std::string state = folder + "/state.json"; env->status(state).exists)
    source.step = parse_json(read_text(env, state), state).value("step", int64_t{-1});
  if (weights != "ema") return source;

  const std::string ema = folder + "/ema.safetensors";
  if (!env->status(ema).exists)
    fail(ErrorKind::kUsage,
         "{}: has no running average of its weights (ema.safetensors); use --weights model",
         folder);
  source.ema = std::make_unique<model::SafetensorsReader>(env, ema);
  for (const model::TensorEntry& entry : source.ema->entries()) {
    const auto& tensors = source.model.weights->tensors();
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const auto& tensor) { return tensor.name == entry.name; });
    if (found == tensors.end() || found->entry.shape != entry.shape)
      fail(ErrorKind::kData, "{}: {} is not a tensor of the model beside it", ema, entry.name);
  }
  return source;
}

FolderDraft::FolderDraft(Env* env, const std::string& out) : env_(env), out_(out) {
  while (out_.size() > 1 && out_.back() == '/') out_.pop_back();
  if (env_->status(out_).exists)
    fail(ErrorKind::kUsage, "--out {}: it exists; remove it or choose another name", out_);
  draft_ = out_ + ".tmp";
  remove_tree(env_, draft_);
  env_->make_folder(draft_);
}

FolderDraft::~FolderDraft() {
  if (is_published_) return;
  try {
    remove_tree(env_, draft_);
  } catch (const Error&) {
    // What made publishing fail has been said already.
  }
}

void FolderDraft::write_text(const std::string& name, const std::string& text) {
  const auto file = env_->create(path(name));
  file->append(text);
  file->sync();
}

void FolderDraft::publish() {
  env_->sync_folder(draft_);
  env_->rename(draft_, out_);
  is_published_ = true;
  env_->sync_folder(parent_folder(out_));
}

std::string class_of(model::PublishedKind kind) {
  switch (kind) {
    case model::PublishedKind::kVideoMae:
      return "VideoMAEModel";
    case model::PublishedKind::kVideoMaePretraining:
      return "VideoMAEForPreTraining";
    case model::PublishedKind::kVideoMaeClassifier:
      return "VideoMAEForVideoClassification";
    case model::PublishedKind::kVJepa2:
      return "VJEPA2Model";
    case model::PublishedKind::kVJepa2Classifier:
      return "VJEPA2ForVideoClassification";
  }
  fail(ErrorKind::kInternal, "model kind {} has no name", int(kind));
}

std::string describe(const model::PublishedConfig& c) {
  const auto family = c.is_vjepa2() ? model::Family::kVJepa2 : model::Family::kVideoMae;
  return fmt::format(
      "{} ({} wide, {} blocks, {} heads), patches of {} x {} x {}, clips of {} frames of {} x {}",
      size_name(c.vit, family), c.vit.width, c.vit.depth, c.vit.heads, c.vit.tubelet_size,
      c.vit.patch_size, c.vit.patch_size, c.num_frames, c.height, c.width);
}

std::string recipe_of(const model::PublishedConfig& c, const std::string& folder) {
  const auto family = c.is_vjepa2() ? model::Family::kVJepa2 : model::Family::kVideoMae;
  const model::VitOptions usual;
  const std::string size = size_name(c.vit, family);
  std::string keys = c.kind == model::PublishedKind::kVideoMaePretraining ? "name: videomae"
                     : c.kind == model::PublishedKind::kVJepa2            ? "name: vjepa2"
                     : c.is_vjepa2() ? "name: classification, backbone: vjepa2"
                                     : "name: classification";
  if (c.problem_type == "multi_label_classification") keys += ", target: multilabel";
  if (c.problem_type == "regression") keys += ", target: regression";
  keys += ", model: " + size;
  if (size == "custom")
    keys += fmt::format(", width: {}, depth: {}, heads: {}, mlp_ratio: {}", c.vit.width,
                        c.vit.depth, c.vit.heads, c.vit.mlp_ratio);
  add_key(keys, "patch_size", c.vit.patch_size, usual.patch_size);
  add_key(keys, "tubelet_size", c.vit.tubelet_size, usual.tubelet_size);
  add_key(keys, "positions", c.vit.positions, std::string(c.is_vjepa2() ? "rope" : "sinusoid"));
  add_key(keys, "layer_norm_eps", c.vit.layer_norm_eps, usual.layer_norm_eps);
  if (c.kind == model::PublishedKind::kVideoMaePretraining) {
    keys += fmt::format(", decoder_width: {}, decoder_depth: {}, decoder_heads: {}",
                        c.decoder.width, c.decoder.depth, c.decoder.heads);
    if (!c.norm_pix_loss) keys += ", norm_pix_loss: false";
  }
  if (c.kind == model::PublishedKind::kVJepa2) {
    const model::PredictorOptions published;
    add_key(keys, "predictor_width", c.predictor.width, published.width);
    add_key(keys, "predictor_depth", c.predictor.depth, published.depth);
    add_key(keys, "predictor_heads", c.predictor.heads, published.heads);
    add_key(keys, "predictor_mlp_ratio", c.predictor.mlp_ratio, published.mlp_ratio);
    add_key(keys, "mask_tokens", c.predictor.mask_tokens, published.mask_tokens);
    add_key(keys, "mask_token", c.predictor.mask_token, published.mask_token);
  }
  if (c.kind == model::PublishedKind::kVJepa2Classifier)
    add_key(keys, "pooler_depth", c.pooler.depth, model::PoolerOptions().depth);
  return fmt::format("objective: {{{}}}\nclip: {{num_frames: {}, size: {}}}\ninit_from: {}\n", keys,
                     c.num_frames, c.height, folder);
}

}  // namespace keiko::cli
