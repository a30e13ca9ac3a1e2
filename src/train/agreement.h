// Whether all ranks of a run are the same program with the same recipe and data, at its start and
// while it goes on.

#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "dist/communicator.h"
#include "model/parameters.h"
#include "train/recipe.h"

namespace keiko::train {

// What a rank is made of.
struct RankIdentity {
  std::string host;
  std::string build;          // versions of Keiko and torch, and the commit
  std::string recipe;         // every key but those that a rank may have for itself, one a line
  std::string data;           // hash of the data set, and of the one for evaluation
  std::string computes = {};  // on what device, in which precision
};
// `device`: "cpu" or a GPU's name.
RankIdentity identify_rank(const Recipe& recipe, uint64_t data_hash, uint64_t eval_data_hash,
                           const std::string& device, const std::string& precision);

// Returns the ranks' host names. Throws Error(kUsage) on every rank, naming the first rank that
// differs from rank 0, in what, and both values. All ranks call it at the same time.
std::vector<std::string> check_ranks_agree(const RankIdentity& mine,
                                           dist::Communicator& communicator);

// The run ends for a reason that all ranks see at the same step: they throw it together, so they
// can still make a save of before count.
class AgreedStop : public Error {
 public:
  using Error::Error;
};

// The weights of the ranks are no longer the same. What is in memory is lost, checkpoints are not.
class Diverged : public AgreedStop {
 public:
  explicit Diverged(const std::string& message) : AgreedStop(ErrorKind::kInternal, message) {}
};

// Compares the weights of all ranks, buffer by buffer. Throws Diverged on every rank, naming the
// first buffer that differs and the ranks that differ from most others. Returns what
// parameters.hash() would; nothing when there is one rank, and nothing to compare. Cost: a pass
// over the weights. All ranks call it at the same time, with equal parameters but for a fault.
std::optional<uint64_t> check_replicas(const model::Parameters& parameters, int64_t step,
                                       dist::Communicator& communicator);
// The same where each rank has its `parts` of the buffers alone, and groups of `group_size`
// neighbouring ranks a copy each: compares the ranks that keep the same part. `communicator` holds
// all ranks.
void check_parts(const model::Parameters& parameters, const std::vector<model::OwnedSlice>& parts,
                 int64_t group_size, int64_t step, dist::Communicator& communicator);

}  // namespace keiko::train
