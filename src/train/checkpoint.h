// Checkpoints: what is written, when it counts, and how a run finds its way back.
//
// A folder step-NNNNNNNN counts only once it holds COMMIT, which rank 0 writes after all ranks have
// fsynced their files. A kill at any moment leaves the newest committed one to resume from.

#pragma once
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/env.h"
#include "config/binder.h"
#include "dist/communicator.h"
#include "dist/sharding.h"
#include "model/parameters.h"
#include "objective/objective.h"
#include "optim/adamw.h"
#include "train/phase.h"

namespace keiko::train {

struct CheckpointOptions {
  int64_t every = 1000;    // steps; 0: only at the end
  int64_t keep = 3;        // newest checkpoints that stay
  int64_t keep_every = 0;  // those of every so many steps stay as well; 0: none

  void bind(config::Binder& b);
};

// What a checkpoint holds, copied from the live run so that training can go on while it is written.
struct CheckpointContent {
  int64_t step = 0;                           // completed updates
  std::vector<model::NamedTensor> weights;    // rank 0 only; published names
  std::vector<model::NamedTensor> ema;        // rank 0 only; averaged weights, often none
  nlohmann::ordered_json config;              // rank 0 only
  std::vector<model::NamedTensor> optimizer;  // this rank's share of each flat state
  int64_t optimizer_part = 0;    // which of them, in the order in which they make up the whole
  nlohmann::ordered_json state;  // rank 0: what resume compares and restores
  uint64_t weights_hash = 0;     // must be equal on all ranks
  int64_t samples_length = 0;    // of this rank's samples-RANK.jsonl, bytes
};

// This rank's share (model::share_of) of flat optimiser states.
std::vector<model::NamedTensor> shard(const std::vector<model::NamedTensor>& flat, int64_t rank,
                                      int64_t world_size);

// The host copy of this rank's part of a checkpoint; training may change the originals from then
// on. `shards`: who keeps which moments; null where every rank has all. Ranks with the same moments
// write a part of them each. The weights must be whole.
// `state` and `samples_length` are left to the caller. `weights_hash`: Parameters::hash() of
// the objective's, where it is known. Cost: a pass over the weights where it is not, and one over
// all that is copied.
CheckpointContent copy_content(int64_t step, objective::Objective& objective,
                               const optim::AdamW& optimizer,
                               const dist::Communicator& communicator, dist::Shards* shards,
                               std::optional<uint64_t> weights_hash);

class CheckpointWriter {
 public:
  // `folder` is RUN/checkpoints. Rank 0 removes what an earlier run left uncommitted; all ranks
  // must make the writer at the same time. `env` and `communicator` outlive it.
  // `phases` is told when files are written, and outlives the writer.
  CheckpointWriter(Env* env, dist::Communicator& communicator, std::string folder,
                   const CheckpointOptions& options, PhaseFile& phases);
  ~CheckpointWriter();

  // Starts writing in the background. Commits an earlier save first (waiting for it). All ranks
  // call it at the same step. Errors of an earlier save are thrown here.
  void save(CheckpointContent content);
  // True while a save is not committed yet.
  bool is_saving() const { return pending_.has_value(); }
  // True when this rank's files are on the disk, or failed to get there.
  bool is_written() const;
  // Waits for all ranks' files and commits. All ranks call it at the same time. Throws Error(kIo)
  // on every rank when any of them failed, naming what failed on this one. Older checkpoints go in
  // the background: removing gigabytes takes longer than all the rest.
  void commit();
  // Waits until what is no longer kept is gone; a warning says when it cannot be removed, for what
  // was saved is whole. Without this call the next save waits, in the background, and fails.
  void wait_for_removal();
  // Step of the last checkpoint that commit() made count; -1: none yet.
  int64_t committed_step() const { return committed_step_; }

 private:
  struct Written {
    std::vector<std::pair<std::string, uint64_t>> files;  // name and xxh3
  };
  struct Pending {
    std::shared_ptr<CheckpointContent> content;
    std::future<Written> files;
  };
  Written write_files(const CheckpointContent& content) const;
  void prune(int64_t newest) const;

  Env* env_;
  dist::Communicator& communicator_;
  std::string folder_;
  CheckpointOptions options_;
  PhaseFile& phases_;
  int64_t committed_step_ = -1;
  std::optional<Pending> pending_;
  std::future<void> removal_;  // of older checkpoints, by rank 0
};

// The weights of a checkpoint, all of them; a run that resumes reads no more than it keeps
// (restore.h).
struct LoadedCheckpoint {
  std::vector<model::NamedTensor> weights;
  std::vector<model::NamedTensor> ema;  // of ema.safetensors; empty when there is none
};

// "step-00001000"
std::string checkpoint_name(int64_t step);

// Committed checkpoints under `folder`, oldest first; empty when there is no such folder.
std::vector<std::string> list_checkpoints(Env* env, const std::string& folder);

// The newest committed checkpoint whose files all have their recorded hashes; damaged ones are
// reported by log and passed over. Nothing when there is none; Error(kData) when all are damaged.
std::optional<std::string> find_checkpoint(Env* env, const std::string& folder);
// The same for ranks that see one folder: each reads a part of the files to check them, all come to
// the same answer, and rank 0 reports. What one finds ends all. They call it at the same time.
std::optional<std::string> find_checkpoint(Env* env, const std::string& folder,
                                           dist::Communicator& communicator);

// Reads the weights of any folder that Hugging Face or Keiko wrote (shards, half precision and both
// spellings of names included). Throws Error(kData) or Error(kIo) naming the file.
LoadedCheckpoint load_checkpoint(Env* env, const std::string& folder);

// What a run starts from: the weights of `folder`, and its averaged ones unless `kind` is "model".
// `kind`: init_weights of the recipe. Throws Error(kUsage) when averaged ones are asked for and
// there are none.
objective::Weights first_weights(Env* env, const std::string& folder, const std::string& kind);

// RUN, RUN/checkpoints/step-N or any folder with model.safetensors or its shards -> the folder with
// the weights.
// Throws Error(kUsage) saying what was looked for; Error(kData) naming the first weights file
// beside a state.json that is not what that recorded.
std::string resolve_weights(Env* env, const std::string& path);

}  // namespace keiko::train
