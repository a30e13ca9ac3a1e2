// Folders as Hugging Face has them: config.json, one or several safetensors files, a model card.
//
// Opening one reads headers alone; tensors are read one by one when asked for, so that a model of
// many gigabytes can be checked and converted in the memory of its largest tensor.

#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/parameters.h"
#include "model/published_config.h"
#include "model/safetensors.h"

namespace keiko::model {

// Gives tensors the names that Keiko's parameters have: VideoMAE's attention biases as q_bias and
// v_bias (transformers 5.5 to 5.17 wrote query.bias and value.bias; a key.bias beside them is left
// out, softmax cancels it), and the prefix "videomae." for a bare VideoMAEModel, which is saved
// without. Other names stay. Values are shared, not copied.
std::vector<NamedTensor> published_spelling(std::vector<NamedTensor> tensors);

// One tensor of a folder, not read yet.
struct StoredTensor {
  std::string name;     // as Keiko's parameters have it
  std::string in_file;  // as the file has it
  size_t shard = 0;     // which file
  TensorEntry entry;
};

// model.safetensors, or all shards that model.safetensors.index.json names. Safe to use from many
// threads at once.
class StoredWeights {
 public:
  // Checks every header, and that index and shards name the same tensors, each once. Throws
  // Error(kData) naming file and tensor; Error(kUsage) when there are no safetensors at all (pickle
  // files are not read: they can run any program).
  StoredWeights(Env* env, const std::string& folder);
  // Under the names of published_spelling(), sorted; what that leaves out is not among them.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::vector<std::string>& left_out() const { return left_out_; }  // names in the file
  const std::vector<std::string>& files() const { return files_; }        // names, no folder
  // In the file's dtype. The tensor owns its memory.
  at::Tensor read(const StoredTensor& tensor) const;
  // A stretch of it alone; see read_numbers().
  void read(const StoredTensor& tensor, int64_t first, at::Tensor into) const;
  // Takes `from` off, or puts `to` before, the names that begin with one of `parts`.
  void rename(const std::string& from, const std::string& to,
              const std::vector<std::string>& parts);

 private:
  std::vector<std::string> files_, left_out_;
  std::vector<std::unique_ptr<SafetensorsReader>> shards_;
  std::vector<StoredTensor> tensors_;
};

// All tensors of a folder, in memory, under Keiko's names and in their own dtypes. The folder needs
// no config.json. Throws as StoredWeights.
std::vector<NamedTensor> read_weights(Env* env, const std::string& folder);
// True when the folder has model.safetensors or its index.
bool holds_weights(Env* env, const std::string& folder);

struct HuggingFaceFolder {
  std::string path;
  nlohmann::ordered_json config_json;  // as the file has it
  PublishedConfig config;
  std::unique_ptr<StoredWeights> weights;  // names fit declare_published(config)
  std::string licence;                     // of the model card, or "not stated"
};

// Opens a folder. Throws Error(kData) naming file and what is wrong with it, Error(kUsage) when
// config.json or the weights are not there.
HuggingFaceFolder read_hugging_face(Env* env, const std::string& folder);

// The license of a model card (README.md with YAML front matter), "not stated" when it has none.
std::string licence_of(const std::string& model_card);

// Rows of the head of a classifier's weights; 0 when they have no classifier.weight.
int64_t count_classes(const StoredWeights& weights);

// Stored tensors against the ones that a model announces.
struct TensorAccount {
  std::vector<std::string> missing, extra;  // names
  std::vector<std::string> misshapen;       // "NAME: [3, 4] in the file, [3, 5] in the model"

  bool is_even() const { return missing.empty() && extra.empty() && misshapen.empty(); }
  // All of them, a line each, indented.
  std::string text() const;
};
TensorAccount account_for(const std::vector<StoredTensor>& stored, const Parameters& declared);

}  // namespace keiko::model
