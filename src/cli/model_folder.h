// Model folders as commands take and make them: opened from a run, a checkpoint or a Hugging Face
// folder, and published whole or not at all.

#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/env.h"
#include "model/hugging_face.h"

namespace keiko::cli {

// Where weights come from.
struct ModelSource {
  model::HuggingFaceFolder model;
  std::string run_folder;                         // "" when the folder is not a run's checkpoint
  int64_t step = -1;                              // of the run; -1: not known
  std::unique_ptr<model::SafetensorsReader> ema;  // null unless asked for

  // The tensor in its file's dtype; the running average where there is one and it was asked for. A
  // regression's head comes in the targets' own units: nobody else knows the statistics that it was
  // trained with. Throws Error(kData) when those are of another size.
  at::Tensor read(const model::StoredTensor& tensor) const;
  // True when there are such statistics.
  bool has_target_statistics() const;
  // How many tensors come from the running average.
  int64_t ema_count() const { return ema ? int64_t(ema->entries().size()) : 0; }
};

// `path`: a run folder (then `step` chooses a checkpoint, -1 the newest), a checkpoint, or a folder
// that Hugging Face or `keiko import` wrote. `weights`: "model" or "ema". Throws Error(kUsage) when
// there is none, Error(kData) when it is damaged.
ModelSource open_model(const std::string& path, int64_t step, const std::string& weights);

// A folder that is written beside its name, synced and renamed: readers see all of it or nothing.
class FolderDraft {
 public:
  // Throws Error(kUsage) when `out` exists: what is in it would be lost.
  FolderDraft(Env* env, const std::string& out);
  // Removes the draft unless it was published.
  ~FolderDraft();
  FolderDraft(const FolderDraft&) = delete;
  FolderDraft& operator=(const FolderDraft&) = delete;

  // Where to write the file `name`; whoever writes it syncs it.
  std::string path(const std::string& name) const { return draft_ + "/" + name; }
  void write_text(const std::string& name, const std::string& text);
  void publish();

 private:
  Env* env_;
  std::string out_, draft_;
  bool is_published_ = false;
};

// "VideoMAEForPreTraining"
std::string class_of(model::PublishedKind kind);
// "small (384 wide, 12 blocks, 6 heads), patches of 2 x 16 x 16, clips of 16 frames of 224 x 224"
std::string describe(const model::PublishedConfig& config);
// The recipe keys that make this model, as YAML lines.
std::string recipe_of(const model::PublishedConfig& config, const std::string& folder);

}  // namespace keiko::cli
