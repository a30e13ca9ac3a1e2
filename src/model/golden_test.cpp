// The models against transformers' own numbers: every fixture folder under KEIKO_GOLDEN, in float64
// and float32, at the tolerances its README recommends; and every published size by name and shape.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/golden_case.h"
#include "model/hugging_face.h"

namespace keiko::model {
namespace {

const char* golden_root() { return std::getenv("KEIKO_GOLDEN"); }
constexpr const char* kNoGolden = "KEIKO_GOLDEN is not set: parity is NOT tested";

TEST(Golden, EveryFixtureGivesWhatTransformersGives) {
  if (golden_root() == nullptr) GTEST_SKIP() << kNoGolden;
  const auto folders = golden_folders(golden_root());
  ASSERT_FALSE(folders.empty()) << golden_root();
  for (const std::string& folder : folders) {
    const GoldenCase golden = load_golden(folder);
    for (const GoldenTolerance& t : {kFloat64, kFloat32}) {
      SCOPED_TRACE(folder + " in " + at::toString(t.dtype));
      double outputs = 0, losses = 0, gradients = 0;
      for (const GoldenCheck& check : check_golden(golden, t)) {
        EXPECT_TRUE(check.holds())
            << check.name << ": error " << check.error << ", tolerance " << check.tolerance;
        double& worst = check.name.find("grad.") != std::string::npos ? gradients
                        : check.name.ends_with("loss")                ? losses
                                                                      : outputs;
        if (check.name != "mid.labels") worst = std::max(worst, check.error);
      }
      std::printf("%-26s %-6s outputs %.1e  loss %.1e  gradients %.1e\n",
                  std::filesystem::path(folder).filename().c_str(), at::toString(t.dtype), outputs,
                  losses, gradients);
    }
  }
}

TEST(Golden, BothSpellingsOfVideoMaesBiasesAreRead) {
  if (golden_root() == nullptr) GTEST_SKIP() << kNoGolden;
  int found = 0;
  for (const std::string& folder : golden_folders(golden_root())) {
    const std::string other = folder + "/model.linear_bias_names.safetensors";
    if (!default_env()->status(other).exists) continue;
    GoldenCase golden = load_golden(folder);
    golden.weights = read_safetensors(default_env(), other);
    golden.weights.tensors = published_spelling(std::move(golden.weights.tensors));
    for (const GoldenCheck& check : check_golden(golden, kFloat64))
      EXPECT_TRUE(check.holds()) << other << ": " << check.name << ": error " << check.error;
    ++found;
  }
  EXPECT_GE(found, 1);
}

// Each line: name, shape as 3x4, dtype.
TEST(Golden, EveryPublishedSizeHasTheSameNamesAndShapes) {
  if (golden_root() == nullptr) GTEST_SKIP() << kNoGolden;
  const std::string names = std::string(golden_root()) + "/names";
  if (!std::filesystem::exists(names))
    GTEST_SKIP() << names << " is not there: names are NOT tested";
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(names)) {
    if (entry.path().extension() != ".tsv") continue;
    SCOPED_TRACE(entry.path().string());
    std::filesystem::path config_path = entry.path();
    config_path.replace_extension(".config.json");
    std::ifstream config_file(config_path);
    const auto config =
        read_published_config(nlohmann::json::parse(config_file), config_path.string());
    std::vector<std::pair<std::string, std::vector<int64_t>>> want;
    std::ifstream lines(entry.path());
    for (std::string line; std::getline(lines, line);) {
      std::istringstream fields(line);
      std::string name, shape;
      std::getline(fields, name, '\t');
      std::getline(fields, shape, '\t');
      if (name == "name" || name.empty() || name[0] == '#') continue;
      std::vector<int64_t> sizes;
      for (size_t i = 0; i < shape.size(); ++i)
        if (std::isdigit(shape[i])) {
          const size_t end = std::min(shape.find_first_not_of("0123456789", i), shape.size());
          sizes.push_back(std::stoll(shape.substr(i, end - i)));
          i = end;
        }
      want.emplace_back(name, sizes);
    }
    std::sort(want.begin(), want.end());
    Parameters parameters(at::kFloat);
    declare_published(parameters, config, int64_t(config.class_names.size()));
    const auto got = parameters.published_shapes();
    ASSERT_GT(want.size(), 100u);
    EXPECT_EQ(got.size(), want.size());
    for (size_t i = 0; i < std::min(got.size(), want.size()); ++i)
      ASSERT_EQ(got[i], want[i]) << "expected " << want[i].first << ", got " << got[i].first;
    ++models;
  }
  EXPECT_GE(models, 1);
}

}  // namespace
}  // namespace keiko::model
