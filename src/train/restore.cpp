#include "train/restore.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/json_text.h"
#include "model/hugging_face.h"

namespace keiko::train {
namespace {

void check_shape(const std::string& folder, const std::string& name, at::IntArrayRef in_file,
                 at::IntArrayRef in_model) {
  if (in_file != in_model)
    fail(ErrorKind::kData, "{}: {} has shape [{}] in the file, but [{}] in the model", folder, name,
         fmt::join(in_file, ", "), fmt::join(in_model, ", "));
}

void restore_averages(Env* env, const std::string& folder, objective::Objective& objective) {
  const auto averages = objective.ema_weights();
  if (averages.empty()) return;
  const std::string path = folder + "/ema.safetensors";
  if (!env->status(path).exists)
    fail(ErrorKind::kData, "{}: the file is missing, and this recipe keeps moving averages", path);
  const model::SafetensorsReader stored(env, path);
  for (const auto& [name, average] : averages) {
    const auto found =
        std::find_if(stored.entries().begin(), stored.entries().end(),
                     [&, wanted = &name](const auto& entry) { return entry.name == *wanted; });
    if (found == stored.entries().end())
      fail(ErrorKind::kData, "{}: there is no moving average of {}", path, name);
    check_shape(folder, name, found->shape, average.sizes());
    stored.read(*found, 0, average);
  }
}

}  // namespace

std::string optimizer_file(int64_t part, int64_t parts) {
  return fmt::format("optimizer-{}-of-{}.safetensors", part, parts);
}

nlohmann::json read_state(Env* env, const std::string& folder) {
  const std::string path = folder + "/state.json";
  return parse_json(read_text(env, path), path);
}

StoredMoments::StoredMoments(Env* env, const std::string& folder, int64_t files)
    : env_(env), folder_(folder), files_(files) {
  for (int64_t file = 0; file < files; ++file) {
    const model::SafetensorsReader reader(env, folder + "/" + optimizer_file(file, files));
    for (const model::TensorEntry& entry : reader.entries()) {
      auto& stretches = stretches_[entry.name];
      const int64_t start =
          stretches.empty() ? 0 : stretches.back().start + stretches.back().entry.shape.at(0);
      if (entry.shape.size() != 1)
        fail(ErrorKind::kData, "{}: {} has {} dimensions, but a flat state has one", reader.path(),
             entry.name, entry.shape.size());
      stretches.push_back({file, entry, start});
    }
  }
}

const ReadableFile& StoredMoments::open(int64_t file) {
  if (is_open_ != file) {
    file_ = env_->open(folder_ + "/" + optimizer_file(file, files_));
    is_open_ = file;
  }
  return *file_;
}

void StoredMoments::read(const std::string& name, int64_t numbers, int64_t start,
                         const at::Tensor& into) {
  const auto found = stretches_.find(name);
  if (found == stretches_.end())
    fail(ErrorKind::kData, "{}: the optimiser state {} is in none of the {} files", folder_, name,
         files_);
  const Stretch& last = found->second.back();
  if (last.start + last.entry.shape[0] != numbers)
    fail(ErrorKind::kData, "{}: the optimiser state {} has {} numbers, but {} in the model",
         folder_, name, last.start + last.entry.shape[0], numbers);
  const int64_t end = start + into.numel();
  for (const Stretch& stretch : found->second) {
    const int64_t low = std::max(start, stretch.start);
    const int64_t high = std::min(end, stretch.start + stretch.entry.shape[0]);
    if (low < high)
      model::read_numbers(open(stretch.file), stretch.entry, low - stretch.start,
                          into.narrow(0, low - start, high - low));
  }
}

void restore_weights(Env* env, const std::string& folder, objective::Objective& objective,
                     const dist::Shards* shares) {
  const c10::NoGradGuard no_grad;
  const model::StoredWeights stored(env, folder);
  std::map<std::string, at::Tensor> trained;
  for (const model::NamedTensor& entry : objective.parameters().published()) trained.insert(entry);
  std::set<std::string> restored;
  std::vector<model::NamedTensor> rest;  // frozen weights, statistics: the objective knows where
  for (const model::StoredTensor& tensor : stored.tensors()) {
    const auto found = trained.find(tensor.name);
    if (found == trained.end()) {
      rest.emplace_back(tensor.name, stored.read(tensor));
      continue;
    }
    const at::Tensor& value = found->second;
    check_shape(folder, tensor.name, tensor.entry.shape, value.sizes());
    const model::Share mine = shares ? shares->kept_of(value) : model::Share{0, value.numel()};
    stored.read(tensor, mine.start, value.view({-1}).narrow(0, mine.start, mine.count));
    restored.insert(tensor.name);
  }
  auto unmatched = objective.load_weights(rest);
  std::erase_if(unmatched.missing, [&](const auto& name) { return restored.count(name) > 0; });
  if (!unmatched.missing.empty() || !unmatched.unused.empty())
    fail(ErrorKind::kData, "{}: does not hold this model: {} missing, {} unknown (the first: {})",
         folder, unmatched.missing.size(), unmatched.unused.size(),
         unmatched.missing.empty() ? unmatched.unused[0] : unmatched.missing[0]);
  restore_averages(env, folder, objective);
}

void restore_moments(Env* env, const std::string& folder, int64_t files, optim::AdamW& optimizer) {
  StoredMoments stored(env, folder, files);
  optimizer.load_state([&](const std::string& name, int64_t numbers, int64_t start,
                           const at::Tensor& into) { stored.read(name, numbers, start, into); });
}

}  // namespace keiko::train
