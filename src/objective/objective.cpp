#include "objective/objective.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "model/upload.h"
#include "objective/classification.h"
#include "objective/joint_embedding.h"
#include "objective/masked_autoencoding.h"
#include "objective/probe.h"

namespace keiko::objective {
namespace {

std::map<std::string, MakeOptions>& registry() {
  static std::map<std::string, MakeOptions> makers = {
      {"videomae", [] { return std::make_shared<MaskedAutoencodingOptions>(); }},
      {"classification", [] { return std::make_shared<ClassificationOptions>(); }},
      {"vjepa2", [] { return std::make_shared<JointEmbeddingOptions>(); }},
      {"probe", [] { return std::make_shared<ProbeOptions>(); }}};
  return makers;
}

}  // namespace

void register_objective(const std::string& name, MakeOptions make) {
  registry()[name] = std::move(make);
}

void ObjectiveChoice::bind(config::Binder& b) {
  std::vector<std::string> names;
  for (const auto& [known, make] : registry()) names.push_back(known);
  b.choice("name", name, names, "what is learned").required();
  if (b.is_reading()) options = registry().at(name)();
  b.call_it(name);
  if (options) options->bind(b);
}

LossSums Objective::loss(const MicroBatch& batch, const model::BlockRunner& runner) {
  Draws draws = draw(batch);
  draws.tensors = model::upload_all(draws.tensors, parameters().device());
  return loss(batch, draws, runner);
}

at::Tensor mean_over_views(const at::Tensor& tokens, int64_t views) {
  return tokens.mean(1).view({tokens.size(0) / views, views, tokens.size(2)}).mean(1);
}

void restore_statistics(const std::vector<model::NamedTensor>& statistics,
                        const std::vector<model::NamedTensor>& tensors,
                        model::Parameters::Unmatched& unmatched) {
  for (const auto& [name, statistic] : statistics) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&, name = name](const auto& t) { return t.first == name; });
    if (found == tensors.end() || found->second.sizes() != statistic.sizes()) {
      unmatched.missing.push_back(name);
      continue;
    }
    at::Tensor(statistic).copy_(found->second);
    std::erase(unmatched.unused, name);
  }
}

void refuse_lost_positions(const std::vector<std::string>& unused) {
  for (const std::string& name : unused)
    if (name == "videomae.embeddings.position_embeddings")
      fail(ErrorKind::kData,
           "init_from: the checkpoint has learned positions, but this model has a fixed table; set "
           "objective.positions: learned");
}

Interval wilson_interval(int64_t hits, int64_t n) {
  if (n == 0) return {0, 1};
  constexpr double z = 1.959963984540054;
  const double count = double(n), p = double(hits) / count;
  const double centre = (p + z * z / (2 * count)) / (1 + z * z / count);
  const double half =
      z * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count);
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

}  // namespace keiko::objective
