#include "model/published_config.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace keiko::model {
namespace {

using nlohmann::json;

// Reads keys of one config.json; a value of another type is an error that names it.
class Keys {
 public:
  Keys(const json& config, const std::string& where) : config_(config), where_(where) {}

  template <class T>
  T get(const char* name, T otherwise) const {
    const auto found = config_.find(name);
    if (found == config_.end() || found->is_null()) return otherwise;
    try {
      return found->get<T>();
    } catch (const json::exception&) {
      refuse(name, "has the wrong type");
    }
  }
  int64_t size(const char* name, int64_t otherwise, int64_t least = 1) const {
    const int64_t value = get<int64_t>(name, otherwise);
    if (value < least || value > (1 << 20))
      refuse(name, fmt::format("must be between {} and 1048576", least));
    return value;
  }
  double ratio(const char* name, double otherwise) const {
    const double value = get<double>(name, otherwise);
    if (!(value > 0 && value <= 64)) refuse(name, "must be above 0 and at most 64");
    return value;
  }
  bool has(const char* name) const { return config_.contains(name); }
  [[noreturn]] void refuse(const char* name, const std::string& why) const {
    fail(ErrorKind::kData, "{}: {} = {} {}", where_, name, config_.value(name, json()).dump(), why);
  }

 private:
  const json& config_;
  const std::string& where_;
};

// One number, or [height, width].
std::pair<int64_t, int64_t> read_image_size(const json& config, const Keys& keys) {
  const auto found = config.find("image_size");
  if (found != config.end() && found->is_array() && found->size() == 2 &&
      (*found)[0].is_number_integer() && (*found)[1].is_number_integer()) {
    for (const json& side : *found)
      if (side.get<int64_t>() < 1 || side.get<int64_t>() > (1 << 20))
        keys.refuse("image_size", "must be between 1 and 1048576");
    return {(*found)[0], (*found)[1]};
  }
  const int64_t side = keys.size("image_size", 224);
  return {side, side};
}

std::vector<std::string> read_class_names(const json& config, const Keys& keys) {
  std::vector<std::string> names;
  const auto found = config.find("id2label");
  if (found == config.end() || found->is_null()) return names;
  if (!found->is_object()) keys.refuse("id2label", "must be a map of class numbers to names");
  names.resize(found->size());
  for (const auto& [key, name] : found->items()) {
    size_t id = 0;
    const bool is_number =
        !key.empty() && key.size() < 8 && key.find_first_not_of("0123456789") == std::string::npos;
    if (is_number) id = size_t(std::stoul(key));
    if (!is_number || id >= names.size() || !name.is_string())
      keys.refuse("id2label", "must name every class from 0 on");
    names[id] = name.get<std::string>();
  }
  return names;
}

void read_encoder(const Keys& keys, VitOptions& vit) {
  vit.model = "custom";
  vit.width = keys.size("hidden_size", 768);
  vit.depth = keys.size("num_hidden_layers", 12);
  vit.heads = keys.size("num_attention_heads", 12);
  vit.patch_size = keys.size("patch_size", 16);
  vit.tubelet_size = keys.size("tubelet_size", 2);
  if (vit.width % vit.heads != 0)
    keys.refuse("hidden_size", "is not a multiple of num_attention_heads");
  const std::string activation = keys.get<std::string>("hidden_act", "gelu");
  vit.tanh_gelu = activation == "gelu_pytorch_tanh" || activation == "gelu_new";
  if (activation != "gelu" && !vit.tanh_gelu)
    keys.refuse("hidden_act", "is not an activation that Keiko has (gelu, gelu_pytorch_tanh)");
  for (const char* dropout :
       {"hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"})
    if (keys.get<double>(dropout, 0) != 0)
      keys.refuse(dropout, "asks for dropout, which Keiko's models do not have; set it to 0");
}

void read_videomae(const json& config, const Keys& keys, PublishedConfig& c) {
  if (keys.size("num_channels", 3) != 3) keys.refuse("num_channels", "is not 3");
  std::tie(c.height, c.width) = read_image_size(config, keys);
  c.num_frames = keys.size("num_frames", 16);
  c.vit.layer_norm_eps = keys.get<double>("layer_norm_eps", 1e-12);
  c.vit.mlp_ratio = mlp_ratio_of(keys.size("intermediate_size", 3072), c.vit.width);
  // transformers 5.18 renamed the key and still reads the old one.
  c.vit.qkv_bias = keys.get<bool>(keys.has("qv_bias") ? "qv_bias" : "qkv_bias", true);
  c.vit.positions = keys.get<std::string>("keiko_positions", "sinusoid");
  if (c.vit.positions != "sinusoid" && c.vit.positions != "learned")
    keys.refuse("keiko_positions", "is neither sinusoid nor learned");
  c.mean_pooling = keys.get<bool>("use_mean_pooling", true);
  c.norm_pix_loss = keys.get<bool>("norm_pix_loss", true);
  c.decoder.width = keys.size("decoder_hidden_size", 384);
  c.decoder.depth = keys.size("decoder_num_hidden_layers", 4);
  c.decoder.heads = keys.size("decoder_num_attention_heads", 6);
  c.decoder.mlp_width = keys.size("decoder_intermediate_size", 1536);
  if (c.decoder.width % c.decoder.heads != 0)
    keys.refuse("decoder_hidden_size", "is not a multiple of decoder_num_attention_heads");
  c.decoder.final_norm = !c.mean_pooling;
}

void read_vjepa2(const Keys& keys, PublishedConfig& c) {
  if (keys.size("in_chans", 3) != 3) keys.refuse("in_chans", "is not 3");
  c.height = c.width = keys.size("crop_size", 256);
  c.num_frames = keys.size("frames_per_clip", 64);
  c.vit.layer_norm_eps = keys.get<double>("layer_norm_eps", 1e-6);
  c.vit.mlp_ratio = keys.ratio("mlp_ratio", 4);
  c.vit.qkv_bias = keys.get<bool>("qkv_bias", true);
  c.vit.positions = keys.get<std::string>("keiko_positions", "rope");
  if (c.vit.positions != "rope" && c.vit.positions != "rope_interleaved")
    keys.refuse("keiko_positions", "is neither rope nor rope_interleaved");
  c.predictor.width = keys.size("pred_hidden_size", 384);
  c.predictor.depth = keys.size("pred_num_hidden_layers", 12, 0);
  c.predictor.heads = keys.size("pred_num_attention_heads", 12);
  c.predictor.mlp_ratio = keys.ratio("pred_mlp_ratio", 4);
  c.predictor.mask_tokens = keys.size("pred_num_mask_tokens", 10);
  c.predictor.mask_token = keys.size("keiko_mask_token", 1, 0);
  if (c.predictor.width % c.predictor.heads != 0)
    keys.refuse("pred_hidden_size", "is not a multiple of pred_num_attention_heads");
  c.pooler.depth = keys.size("num_pooler_layers", 3, 0);
  c.pooler.heads = c.vit.heads;
  c.pooler.eps = c.vit.layer_norm_eps;
  c.pooler.tanh_gelu = c.vit.tanh_gelu;
}

}  // namespace

PublishedConfig read_published_config(const json& config, const std::string& where) {
  if (!config.is_object()) fail(ErrorKind::kData, "{}: is not a JSON object", where);
  const Keys keys(config, where);
  const auto architectures = keys.get<std::vector<std::string>>("architectures", {});
  const std::string architecture = architectures.empty() ? "" : architectures[0];
  const std::string type = keys.get<std::string>("model_type", "");
  const std::map<std::string, PublishedKind> kinds = {
      {"VideoMAEModel", PublishedKind::kVideoMae},
      {"VideoMAEForPreTraining", PublishedKind::kVideoMaePretraining},
      {"VideoMAEForVideoClassification", PublishedKind::kVideoMaeClassifier},
      {"VJEPA2Model", PublishedKind::kVJepa2},
      {"VJEPA2ForVideoClassification", PublishedKind::kVJepa2Classifier}};
  // Heads that transformers does not have, such as probes: the encoder is what others know.
  const bool is_keikos_own = architecture.rfind("Keiko", 0) == 0;
  PublishedConfig c;
  if (const auto found = kinds.find(architecture); found != kinds.end())
    c.kind = found->second;
  else if ((architecture.empty() || is_keikos_own) && type == "videomae")
    c.kind = PublishedKind::kVideoMae;
  else if ((architecture.empty() || is_keikos_own) && type == "vjepa2")
    c.kind = PublishedKind::kVJepa2;
  else
    fail(ErrorKind::kData,
         "{}: model_type = \"{}\" with architecture \"{}\" is not a model that Keiko has "
         "(VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification, VJEPA2Model, "
         "VJEPA2ForVideoClassification)",
         where, type, architecture);
  read_encoder(keys, c.vit);
  if (c.is_vjepa2())
    read_vjepa2(keys, c);
  else
    read_videomae(config, keys, c);
  c.class_names = read_class_names(config, keys);
  if (c.is_classifier()) c.problem_type = keys.get<std::string>("problem_type", "");
  return c;
}

void declare_published(Parameters& parameters, const PublishedConfig& c, int64_t classes) {
  switch (c.kind) {
    case PublishedKind::kVideoMae:
      VideoMaeEncoder(parameters, c.vit, make_grid(c.vit, c.num_frames, c.height, c.width),
                      !c.mean_pooling);
      return;
    case PublishedKind::kVideoMaePretraining:
      VideoMaePretraining(parameters, c.vit, c.decoder,
                          make_grid(c.vit, c.num_frames, c.height, c.width));
      return;
    case PublishedKind::kVideoMaeClassifier:
      VideoMaeClassifier(parameters, c.vit, make_grid(c.vit, c.num_frames, c.height, c.width),
                         {classes, c.mean_pooling});
      return;
    case PublishedKind::kVJepa2:
      VJepa2Encoder(parameters, c.vit, c.side(), "");
      VJepa2Predictor(parameters, c.vit, c.predictor, c.side(), "");
      return;
    case PublishedKind::kVJepa2Classifier:
      VJepa2Classifier(parameters, c.vit, c.side(), c.pooler, classes);
      // The file holds a predictor too, which the classifier does not use.
      VJepa2Predictor(parameters, c.vit, c.predictor, c.side(), "vjepa2.");
      return;
  }
}

}  // namespace keiko::model
