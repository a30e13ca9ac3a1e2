// Checks of one golden fixture folder: what Keiko computes beside what transformers computed.
//
// For tests only. Every check is a number and its tolerance, so that the parity test can ask that
// all of them hold, and the test of mistakes that each mistake breaks one.

#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/published_config.h"
#include "model/safetensors.h"

namespace keiko::model {

struct GoldenCheck {
  std::string name;
  double error = 0, tolerance = 0;

  bool holds() const { return error <= tolerance; }  // false for NaN
};

// As the fixtures' README recommends: `scaled` errors of outputs, relative ones of losses.
struct GoldenTolerance {
  at::ScalarType dtype;
  double output, loss, gradient;
};
inline constexpr GoldenTolerance kFloat64{at::kDouble, 1e-10, 1e-10, 1e-7};
inline constexpr GoldenTolerance kFloat32{at::kFloat, 5e-6, 1e-6, 3e-5};

// One folder: config.json, model.safetensors, case.safetensors. Tests of mistakes change it.
struct GoldenCase {
  std::string name;
  nlohmann::json config;
  SafetensorsFile weights, expected;

  // What a mistake may be injected through, besides the above. Empty: Keiko's own.
  std::function<at::Tensor(const at::Tensor& pixels, const TokenGrid&, bool normalise)> target;
  std::function<void(PublishedConfig&)> change;  // of what config.json said
  bool target_from_input = false;                // without un-normalising
  bool restart_positions = false;                // the predictor's tokens are counted from 0
  double target_eps = 1e-5;                      // of V-JEPA's target norm
  bool normalise_target = true;                  // V-JEPA: LayerNorm of the target
  double head_eps = 1e-5;                        // of fc_norm
};

// Folders under `root` that hold a case.safetensors, sorted.
std::vector<std::string> golden_folders(const std::string& root);
GoldenCase load_golden(const std::string& folder);

// Everything that the fixture says, outputs, intermediates, losses and gradients.
std::vector<GoldenCheck> check_golden(const GoldenCase& golden, const GoldenTolerance& tolerance);

}  // namespace keiko::model
