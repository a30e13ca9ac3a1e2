// The golden checks must be able to fail: every mistake that the fixtures' README lists with an
// effect above 1e-9 is made once, and has to break a check of outputs or losses in float64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "model/golden_case.h"

namespace keiko::model {
namespace {

// Worst error over tolerance among outputs and losses: gradients and bookkeeping do not count.
double worst_ratio(const GoldenCase& golden, std::string* name = nullptr) {
  double worst = 0;
  for (const GoldenCheck& check : check_golden(golden, kFloat64)) {
    if (check.tolerance == 0 || check.name.find("grad.") != std::string::npos) continue;
    const double ratio = check.holds() ? check.error / check.tolerance : HUGE_VAL;
    if (ratio > worst && name != nullptr) *name = check.name;
    worst = std::max(worst, ratio);
  }
  return worst;
}

void zero(GoldenCase& golden, const std::string& ending) {
  for (auto& [name, tensor] : golden.weights.tensors)
    if (name.ends_with(ending)) tensor = at::zeros_like(tensor);
}

// VideoMAE with its fixed tables replaced: learned positions, loaded.
void replace_tables(GoldenCase& golden, at::Tensor (*table)(int64_t n, int64_t width)) {
  golden.config["keiko_positions"] = "learned";
  const int64_t n = golden.expected.get("in.bool_masked_pos").size(1);
  golden.weights.tensors.emplace_back("videomae.embeddings.position_embeddings",
                                      table(n, golden.config["hidden_size"]));
  golden.weights.tensors.emplace_back("decoder.position_embeddings",
                                      table(n, golden.config["decoder_hidden_size"]));
}

at::Tensor rounded(int64_t n, int64_t width) { return sinusoid_table(n, width, at::kDouble); }

at::Tensor angles(int64_t n, int64_t width) {
  const at::Tensor j = at::arange(width, at::kDouble).div_(2).floor_().mul_(2.0 / double(width));
  return at::arange(n, at::kDouble).unsqueeze(1) / at::pow(10000.0, j);
}
at::Tensor not_rounded(int64_t n, int64_t width) {
  const at::Tensor a = angles(n, width), is_odd = at::arange(width).remainder(2).eq(1);
  return at::where(is_odd, a.cos(), a.sin()).unsqueeze(0);
}
at::Tensor sines_then_cosines(int64_t n, int64_t width) {
  const at::Tensor a = angles(n, width).slice(1, 0, width, 2);
  return at::cat({a.sin(), a.cos()}, 1).to(at::kFloat).to(at::kDouble).unsqueeze(0);
}

struct Mistake {
  const char* fixture;
  const char* what;
  std::function<void(GoldenCase&)> make;
};

at::Tensor normalised(const at::Tensor& pixels, const TokenGrid& g, int64_t channels,
                      int64_t correction) {
  at::Tensor x = pixels.reshape({pixels.size(0), pixels.size(1), channels, -1});
  const auto [variance, mean] = at::var_mean(x, at::IntArrayRef{3}, correction, true);
  x = ((x - mean) / (variance.sqrt() + 1e-6)).reshape(pixels.sizes());
  return videomae_target(x, g, false);
}

const std::vector<Mistake>& mistakes() {
  static const std::vector<Mistake> all = {
      {"videomae_pretrain_tiny", "q_bias and v_bias dropped",
       [](GoldenCase& g) {
         zero(g, "q_bias");
         zero(g, "v_bias");
       }},
      {"videomae_pretrain_tiny", "q_bias dropped", [](GoldenCase& g) { zero(g, "q_bias"); }},
      {"videomae_pretrain_tiny", "v_bias dropped", [](GoldenCase& g) { zero(g, "v_bias"); }},
      {"videomae_pretrain_tiny", "tanh GELU",
       [](GoldenCase& g) { g.config["hidden_act"] = "gelu_pytorch_tanh"; }},
      {"videomae_pretrain_tiny", "position table: sines then cosines",
       [](GoldenCase& g) { replace_tables(g, sines_then_cosines); }},
      {"videomae_pretrain_tiny", "position table not rounded to float32",
       [](GoldenCase& g) { replace_tables(g, not_rounded); }},
      {"videomae_pretrain_tiny", "layer_norm_eps 1e-6 instead of 1e-12",
       [](GoldenCase& g) { g.config["layer_norm_eps"] = 1e-6; }},
      {"videomae_pretrain_tiny", "decoder.norm eps 1e-12 instead of 1e-5",
       [](GoldenCase& g) { g.change = [](PublishedConfig& c) { c.decoder.norm_eps = 1e-12; }; }},
      {"videomae_pretrain_tiny", "final encoder LayerNorm left out",
       [](GoldenCase& g) { g.config["use_mean_pooling"] = true; }},
      {"videomae_pretrain_tiny", "target element order c,t,h,w",
       [](GoldenCase& g) {
         g.target = [](const at::Tensor& pixels, const TokenGrid& grid, bool normalise) {
           return channels_first(videomae_target(pixels, grid, normalise), grid);
         };
       }},
      {"videomae_pretrain_tiny", "target with biased variance",
       [](GoldenCase& g) {
         g.target = [](const at::Tensor& pixels, const TokenGrid& grid, bool) {
           return normalised(pixels, grid, 3, 0);
         };
       }},
      {"videomae_pretrain_tiny", "target normalised over all channels together",
       [](GoldenCase& g) {
         g.target = [](const at::Tensor& pixels, const TokenGrid& grid, bool) {
           return normalised(pixels, grid, 1, 1);
         };
       }},
      {"videomae_pretrain_tiny", "target from the normalised input",
       [](GoldenCase& g) { g.target_from_input = true; }},
      {"videomae_classify_tiny", "q_bias and v_bias dropped",
       [](GoldenCase& g) {
         zero(g, "q_bias");
         zero(g, "v_bias");
       }},
      {"videomae_classify_tiny", "fc_norm eps 1e-12 instead of 1e-5",
       [](GoldenCase& g) { g.head_eps = 1e-12; }},
      {"videomae_classify_tiny", "first token instead of mean pooling, no fc_norm",
       [](GoldenCase& g) { g.config["use_mean_pooling"] = false; }},
      {"vjepa2_tiny", "RoPE interleaved instead of tiled",
       [](GoldenCase& g) {
         g.change = [](PublishedConfig& c) { c.vit.positions = "rope_interleaved"; };
       }},
      {"vjepa2_tiny", "RoPE left out",
       [](GoldenCase& g) { g.change = [](PublishedConfig& c) { c.vit.positions = "none"; }; }},
      {"vjepa2_tiny", "mask token 0 instead of 1",
       [](GoldenCase& g) { g.change = [](PublishedConfig& c) { c.predictor.mask_token = 0; }; }},
      {"vjepa2_tiny", "predictor positions restart at 0",
       [](GoldenCase& g) { g.restart_positions = true; }},
      {"vjepa2_tiny", "target LayerNorm eps 1e-6 instead of 1e-5",
       [](GoldenCase& g) { g.target_eps = 1e-6; }},
      {"vjepa2_tiny", "target without LayerNorm",
       [](GoldenCase& g) { g.normalise_target = false; }},
      {"vjepa2_tiny", "layer_norm_eps 1e-5 instead of 1e-6",
       [](GoldenCase& g) { g.config["layer_norm_eps"] = 1e-5; }},
      {"vjepa2_tiny", "tanh GELU",
       [](GoldenCase& g) { g.config["hidden_act"] = "gelu_pytorch_tanh"; }},
      {"vjepa2_classify_tiny", "layer_norm_eps 1e-5 instead of 1e-6",
       [](GoldenCase& g) { g.config["layer_norm_eps"] = 1e-5; }},
      {"vjepa2_classify_tiny", "RoPE interleaved instead of tiled", [](GoldenCase& g) {
         g.change = [](PublishedConfig& c) { c.vit.positions = "rope_interleaved"; };
       }}};
  return all;
}

TEST(GoldenMistakes, EachOneBreaksACheck) {
  const char* root = std::getenv("KEIKO_GOLDEN");
  if (root == nullptr) GTEST_SKIP() << "KEIKO_GOLDEN is not set: mistakes are NOT tested";
  int made = 0;
  for (const Mistake& mistake : mistakes()) {
    const std::string folder = std::string(root) + "/" + mistake.fixture;
    if (!default_env()->status(folder + "/case.safetensors").exists) continue;
    GoldenCase golden = load_golden(folder);
    ASSERT_LE(worst_ratio(golden), 1) << folder;
    mistake.make(golden);
    std::string name;
    EXPECT_GT(worst_ratio(golden, &name), 1) << mistake.fixture << ": " << mistake.what;
    std::printf("%-22s %-48s breaks %s\n", mistake.fixture, mistake.what, name.c_str());
    ++made;
  }
  EXPECT_GT(made, 0) << root << " has none of the fixtures that mistakes are known for";
}

// The way the tables are replaced is no mistake by itself, and a key's bias changes nothing.
TEST(GoldenMistakes, HarmlessChangesBreakNothing) {
  const char* root = std::getenv("KEIKO_GOLDEN");
  if (root == nullptr) GTEST_SKIP() << "KEIKO_GOLDEN is not set: mistakes are NOT tested";
  if (const std::string folder = std::string(root) + "/videomae_pretrain_tiny";
      default_env()->status(folder).exists) {
    GoldenCase golden = load_golden(folder);
    replace_tables(golden, rounded);
    EXPECT_LE(worst_ratio(golden), 1);
  }
  if (const std::string folder = std::string(root) + "/vjepa2_classify_tiny";
      default_env()->status(folder).exists) {
    GoldenCase golden = load_golden(folder);
    zero(golden, "k_proj.bias");
    EXPECT_LE(worst_ratio(golden), 1);
  }
}

}  // namespace
}  // namespace keiko::model
