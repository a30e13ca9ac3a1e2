#include "model/hugging_face.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/json_text.h"

namespace keiko::model {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

void replace_end(std::string& name, const std::string& from, const std::string& to) {
  if (name.ends_with(from)) name.replace(name.size() - from.size(), std::string::npos, to);
}

// One name in Keiko's spelling; empty: the tensor is left out.
std::string spell(std::string name, bool is_bare_videomae) {
  if (name.ends_with(".attention.attention.key.bias")) return "";
  replace_end(name, ".attention.attention.query.bias", ".attention.attention.q_bias");
  replace_end(name, ".attention.attention.value.bias", ".attention.attention.v_bias");
  return is_bare_videomae ? "videomae." + name : name;
}

// Only a bare VideoMAEModel has this name; other models have something before it.
bool is_bare_videomae(const std::string& name) {
  return name == "embeddings.patch_embeddings.projection.weight";
}

// What model.safetensors.index.json says: the file of each tensor.
std::map<std::string, std::string> read_index(Env* env, const std::string& path) {
  const auto json = parse_json(read_text(env, path), path);
  const auto found = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || found == json.end() || !found->is_object() || found->empty())
    fail(ErrorKind::kData, "{}: has no weight_map, which names the file of each tensor", path);
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : found->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // A shard lies beside its index: anything else could name any file of this machine.
    if (!name.ends_with(".safetensors") || name.find_first_of("/\\") != std::string::npos ||
        name.find("..") != std::string::npos || name.find('\0') != std::string::npos)
      fail(ErrorKind::kData,
           "{}: {} is said to be in {}, which is not the plain name of a .safetensors file", path,
           tensor, json_text(file));
    files[tensor] = name;
  }
  return files;
}

bool begins_with_any(const std::string& name, const std::vector<std::string>& parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return name.rfind(part, 0) == 0; });
}

const std::vector<std::string> kVJepa2Parts = {"encoder.", "predictor."};
const std::vector<std::string> kPrefixedVJepa2Parts = {"vjepa2.encoder.", "vjepa2.predictor."};
constexpr const char* kVJepa2Prefix = "vjepa2.";

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void sort_by_name(std::vector<StoredTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
}

std::string trim(const std::string& text) {
  const char* blanks = " \t\r'\"";
  const size_t first = text.find_first_not_of(blanks);
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

}  // namespace

std::vector<NamedTensor> published_spelling(std::vector<NamedTensor> tensors) {
  const bool is_bare = std::any_of(tensors.begin(), tensors.end(), [](const NamedTensor& entry) {
    return is_bare_videomae(entry.first);
  });
  std::vector<NamedTensor> spelled;
  for (auto& [name, tensor] : tensors)
    if (std::string ours = spell(name, is_bare); !ours.empty())
      spelled.emplace_back(std::move(ours), std::move(tensor));
  return spelled;
}

bool holds_weights(Env* env, const std::string& folder) {
  return env->status(folder + "/" + kSingle).exists || env->status(folder + "/" + kIndex).exists;
}

StoredWeights::StoredWeights(Env* env, const std::string& folder) {
  std::map<std::string, std::string> index;
  if (env->status(folder + "/" + kSingle).exists) {
    files_ = {kSingle};
  } else if (env->status(folder + "/" + kIndex).exists) {
    index = read_index(env, folder + "/" + kIndex);
    for (const auto& [tensor, file] : index) files_.push_back(file);
    std::sort(files_.begin(), files_.end());
    files_.erase(std::unique(files_.begin(), files_.end()), files_.end());
  } else {
    for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
      if (env->status(folder + "/" + pickle).exists)
        fail(ErrorKind::kUsage,
             "{}: holds {}, a pickle, which can run any program when it is read and which Keiko "
             "does not read. Convert it to safetensors: load it in transformers with "
             "from_pretrained and write it with save_pretrained",
             folder, pickle);
    fail(ErrorKind::kUsage, "{}: holds neither {} nor {}", folder, kSingle, kIndex);
  }
  std::map<std::string, size_t> seen;  // tensor -> shard
  for (const std::string& file : files_) {
    if (!env->status(folder + "/" + file).exists)
      fail(ErrorKind::kData, "{}/{}: the shard is missing, but {} names it", folder, file, kIndex);
    shards_.push_back(std::make_unique<SafetensorsReader>(env, folder + "/" + file));
    for (const TensorEntry& entry : shards_.back()->entries()) {
      const auto [known, is_new] = seen.emplace(entry.name, shards_.size() - 1);
      if (!is_new)
        fail(ErrorKind::kData, "{}: {} is in {} and in {}", folder, entry.name,
             files_[known->second], file);
      if (index.empty()) continue;
      const auto listed = index.find(entry.name);
      if (listed == index.end())
        fail(ErrorKind::kData, "{}/{}: holds {}, which {} does not name", folder, file, entry.name,
             kIndex);
    }
  }
  for (const auto& [tensor, file] : index) {
    const auto found = seen.find(tensor);
    if (found == seen.end() || files_[found->second] != file)
      fail(ErrorKind::kData, "{}/{}: {} says that {} is in this file, but it is {}", folder, file,
           kIndex, tensor, found == seen.end() ? "nowhere" : "in " + files_[found->second]);
  }
  const bool is_bare = std::any_of(seen.begin(), seen.end(),
                                   [](const auto& entry) { return is_bare_videomae(entry.first); });
  std::map<std::string, std::string> spelled;  // Keiko's name -> the file's
  for (size_t shard = 0; shard < shards_.size(); ++shard)
    for (const TensorEntry& entry : shards_[shard]->entries()) {
      const std::string name = spell(entry.name, is_bare);
      if (name.empty()) {
        left_out_.push_back(entry.name);
        continue;
      }
      const auto [other, is_new] = spelled.emplace(name, entry.name);
      if (!is_new)
        fail(ErrorKind::kData, "{}: {} and {} are two spellings of one tensor", folder,
             other->second, entry.name);
      tensors_.push_back({name, entry.name, shard, entry});
    }
  sort_by_name(tensors_);
}

at::Tensor StoredWeights::read(const StoredTensor& tensor) const {
  return shards_[tensor.shard]->read(tensor.entry);
}

void StoredWeights::read(const StoredTensor& tensor, int64_t first, at::Tensor into) const {
  shards_[tensor.shard]->read(tensor.entry, first, std::move(into));
}

void StoredWeights::rename(const std::string& from, const std::string& to,
                           const std::vector<std::string>& parts) {
  for (StoredTensor& tensor : tensors_)
    if (begins_with_any(tensor.name, parts)) tensor.name = to + tensor.name.substr(from.size());
  sort_by_name(tensors_);
}

std::vector<NamedTensor> read_weights(Env* env, const std::string& folder) {
  const StoredWeights weights(env, folder);
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : weights.tensors())
    tensors.emplace_back(tensor.name, weights.read(tensor));
  return tensors;
}

HuggingFaceFolder read_hugging_face(Env* env, const std::string& folder) {
  HuggingFaceFolder out;
  out.path = folder;
  const std::string config = folder + "/config.json";
  if (!env->status(config).exists)
    fail(ErrorKind::kUsage, "{}: not a model folder (it has no config.json)", folder);
  out.config_json = parse_json<nlohmann::ordered_json>(read_text(env, config), config);
  out.config = read_published_config(nlohmann::json(out.config_json), config);
  out.weights = std::make_unique<StoredWeights>(env, folder);
  const auto& tensors = out.weights->tensors();
  if (out.config.kind == PublishedKind::kVJepa2)
    out.weights->rename(kVJepa2Prefix, "", kPrefixedVJepa2Parts);
  if (out.config.kind == PublishedKind::kVJepa2Classifier &&
      std::any_of(tensors.begin(), tensors.end(),
                  [](const StoredTensor& t) { return begins_with_any(t.name, kVJepa2Parts); }))
    out.weights->rename("", kVJepa2Prefix, kVJepa2Parts);
  const std::string card = folder + "/README.md";
  out.licence = env->status(card).exists ? licence_of(read_text(env, card)) : "not stated";
  return out;
}

std::string licence_of(const std::string& card) {
  std::istringstream lines(card);
  std::string line, licence, name;
  bool in_list = false;
  if (!std::getline(lines, line) || trim(line) != "---") return "not stated";
  while (std::getline(lines, line) && trim(line) != "---") {
    // "license:" followed by lines "- one", or its value in the same line.
    if (in_list && trim(line).rfind("- ", 0) == 0) {
      licence += (licence.empty() ? "" : ", ") + trim(trim(line).substr(2));
      continue;
    }
    in_list = false;
    if (line.rfind("license:", 0) == 0) {
      licence = trim(line.substr(8));
      in_list = licence.empty();
    }
    if (line.rfind("license_name:", 0) == 0) name = trim(line.substr(13));
  }
  if (licence.empty()) return name.empty() ? "not stated" : name;
  return name.empty() ? licence : fmt::format("{} ({})", licence, name);
}

int64_t count_classes(const StoredWeights& weights) {
  for (const StoredTensor& tensor : weights.tensors())
    if (tensor.name == "classifier.weight" && !tensor.entry.shape.empty())
      return tensor.entry.shape[0];
  return 0;
}

std::string TensorAccount::text() const {
  std::string out;
  for (const std::string& name : missing) out += "\n  missing    " + name;
  for (const std::string& name : extra) out += "\n  extra      " + name;
  for (const std::string& line : misshapen) out += "\n  misshapen  " + line;
  return out;
}

TensorAccount account_for(const std::vector<StoredTensor>& stored, const Parameters& declared) {
  TensorAccount account;
  std::map<std::string, std::vector<int64_t>> wanted;
  for (auto& [name, shape] : declared.published_shapes()) wanted[name] = shape;
  for (const StoredTensor& tensor : stored) {
    const auto found = wanted.find(tensor.name);
    if (found == wanted.end()) {
      account.extra.push_back(tensor.name);
      continue;
    }
    if (found->second != tensor.entry.shape)
      account.misshapen.push_back(fmt::format("{}: {} in the file, {} in the model", tensor.name,
                                              shape_text(tensor.entry.shape),
                                              shape_text(found->second)));
    wanted.erase(found);
  }
  for (const auto& [name, shape] : wanted) account.missing.push_back(name);
  return account;
}

}  // namespace keiko::model
