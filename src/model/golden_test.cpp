// VideoMAE against transformers' own numbers: every fixture folder under KEIKO_GOLDEN whose
// config.json says videomae, in float64 and float32, at the tolerances its README recommends.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/safetensors.h"
#include "model/videomae.h"

namespace keiko::model {
namespace {

using nlohmann::json;

struct Tolerance {
  at::ScalarType dtype;
  double output, loss, gradient;
};
constexpr Tolerance kTolerances[] = {{at::kDouble, 1e-10, 1e-10, 1e-7},
                                     {at::kFloat, 5e-6, 1e-6, 3e-5}};

double scaled_error(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.detach().to(at::kDouble), b = want.to(at::kDouble);
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

VitOptions vit_of(const json& c) {
  VitOptions o;
  o.model = "custom";
  o.width = c["hidden_size"];
  o.depth = c["num_hidden_layers"];
  o.heads = c["num_attention_heads"];
  o.mlp_ratio = (c["intermediate_size"].get<double>() + 0.5) / double(o.width);
  o.patch_size = c["patch_size"];
  o.tubelet_size = c["tubelet_size"];
  o.layer_norm_eps = c["layer_norm_eps"];
  return o;
}

void check_gradients(const Parameters& parameters, const SafetensorsFile& data,
                     const Tolerance& t) {
  for (const Parameter& p : parameters.all()) {
    const size_t parts = std::max<size_t>(1, p.spec.parts.size());
    const auto chunks = p.value.grad().chunk(int64_t(parts), 0);
    for (size_t i = 0; i < parts; ++i) {
      const std::string name = p.spec.parts.empty() ? p.spec.name : p.spec.parts[i];
      EXPECT_LT(scaled_error(chunks[i], data.get("grad." + name)), t.gradient) << name;
    }
  }
}

void check_pretraining(const json& c, const SafetensorsFile& weights, const SafetensorsFile& data,
                       const Tolerance& t) {
  const VitOptions vit = vit_of(c);
  const TokenGrid grid = make_grid(vit, c["num_frames"], c["image_size"]);
  DecoderOptions decoder{c["decoder_hidden_size"], c["decoder_num_hidden_layers"],
                         c["decoder_num_attention_heads"], c["decoder_intermediate_size"]};
  Parameters parameters(t.dtype);
  const VideoMaePretraining model(parameters, vit, decoder, grid);
  parameters.allocate(1);
  const auto unmatched = parameters.load(weights.tensors);
  EXPECT_TRUE(unmatched.missing.empty() && unmatched.unused.empty());

  const at::Tensor pixels =
      data.get("in.pixel_values").to(t.dtype).permute({0, 2, 1, 3, 4});  // [B, 3, T, H, W]
  const at::Tensor mask = data.get("in.bool_masked_pos");
  const int64_t b = mask.size(0);
  const auto ids_where = [&](const at::Tensor& m) {
    return at::nonzero(m).select(1, 1).view({b, -1});
  };
  const at::Tensor visible = ids_where(mask.logical_not()), masked = ids_where(mask);
  const at::Tensor patches = patchify(pixels, grid);
  const BlockRunner runner;
  const at::Tensor hidden =
      model.encoder().forward(gather_tokens(patches, visible), visible, {}, runner);
  EXPECT_LT(scaled_error(hidden, data.get("out.last_hidden_state")), t.output);

  const at::Tensor logits = model.forward(gather_tokens(patches, visible), visible, masked, runner);
  EXPECT_LT(scaled_error(logits, data.get("out.logits")), t.output);
  // The fixture's input is normalised: back to [0, 1] with the same constants.
  const at::Tensor mean = at::tensor(at::ArrayRef<float>(kImageNetMean, 3)).to(t.dtype);
  const at::Tensor std = at::tensor(at::ArrayRef<float>(kImageNetStd, 3)).to(t.dtype);
  const at::Tensor raw = pixels * std.view({1, 3, 1, 1, 1}) + mean.view({1, 3, 1, 1, 1});
  const at::Tensor target =
      videomae_target(gather_tokens(patchify(raw, grid), masked), grid, c["norm_pix_loss"]);
  EXPECT_LT(scaled_error(target, data.get("mid.labels")), t.dtype == at::kDouble ? 1e-10 : 1e-4);
  // In float32 the loss is taken against the fixture's own target: un-normalising loses digits
  // there.
  const at::Tensor loss =
      at::mse_loss(logits, t.dtype == at::kDouble ? target : data.get("mid.labels").to(t.dtype));
  EXPECT_NEAR(loss.item<double>() / data.get("out.loss").item<double>(), 1, t.loss);
  loss.backward();
  check_gradients(parameters, data, t);
}

void check_classifier(const json& c, const SafetensorsFile& weights, const SafetensorsFile& data,
                      const Tolerance& t) {
  const VitOptions vit = vit_of(c);
  const TokenGrid grid = make_grid(vit, c["num_frames"], c["image_size"]);
  Parameters parameters(t.dtype);
  const VideoMaeClassifier model(parameters, vit, grid, weights.get("classifier.weight").size(0));
  parameters.allocate(1);
  const auto unmatched = parameters.load(weights.tensors);
  EXPECT_TRUE(unmatched.missing.empty() && unmatched.unused.empty());
  const at::Tensor pixels = data.get("in.pixel_values").to(t.dtype).permute({0, 2, 1, 3, 4});
  const at::Tensor logits = model.forward(patchify(pixels, grid), {}, BlockRunner());
  EXPECT_LT(scaled_error(logits, data.get("out.logits")), t.output);
  const at::Tensor loss = at::cross_entropy_loss(logits, data.get("in.labels"));
  EXPECT_NEAR(loss.item<double>() / data.get("out.loss").item<double>(), 1, t.loss);
  loss.backward();
  check_gradients(parameters, data, t);
}

TEST(Golden, VideoMaeGivesWhatTransformersGives) {
  const char* folder = std::getenv("KEIKO_GOLDEN");
  if (folder == nullptr) GTEST_SKIP() << "KEIKO_GOLDEN is not set: parity is NOT tested";
  int fixtures = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (!default_env()->status(path + "/case.safetensors").exists) continue;
    const json config = json::parse(read_text(default_env(), path + "/config.json"));
    if (config["model_type"] != "videomae") continue;
    const SafetensorsFile weights = read_safetensors(default_env(), path + "/model.safetensors");
    const SafetensorsFile data = read_safetensors(default_env(), path + "/case.safetensors");
    for (const Tolerance& t : kTolerances) {
      SCOPED_TRACE(path + " in " + at::toString(t.dtype));
      if (config["architectures"][0] == "VideoMAEForPreTraining")
        check_pretraining(config, weights, data, t);
      else
        check_classifier(config, weights, data, t);
    }
    ++fixtures;
  }
  EXPECT_GE(fixtures, 2);
}

}  // namespace
}  // namespace keiko::model
