// Which rank keeps what, when ranks share out one copy of a model.
//
// The storage of every block is cut into equal parts, one for each rank of a group; parts begin at
// multiples of 16 numbers, and the last ones may reach past the end of what is stored. Groups are
// neighbouring ranks, by default all of them; with several groups each has a copy of its own, and
// ranks with the same part in different groups hold replicas of it (Rajbhandari et al. 2020, ZeRO;
// Zhao et al. 2023, PyTorch FSDP, "hybrid sharding").

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dist/communicator.h"
#include "model/parameters.h"

namespace keiko::dist {

// The part of a storage of `numbers` numbers that one of `ranks` ranks keeps.
struct Part {
  int64_t length = 0;  // of every rank's part, a multiple of 16
  int64_t start = 0;   // of this rank's, in the storage
  int64_t padded() const { return length * ranks; }
  int64_t ranks = 1;
};
Part part_of(int64_t numbers, int64_t rank, int64_t ranks);

// The numbers of `view`, which is contiguous (a buffer's values, a parameter), that lie in `part`
// of its storage: from where in the view (share.start), how many, and where in the part they lie.
struct ViewShare {
  model::Share share;
  int64_t in_part = 0;
};
ViewShare share_of_view(const at::Tensor& view, const Part& part);

// Throws Error(kUsage) when groups of `group_size` ranks (0: all) do not make up `world_size`.
void check_shard_group(int64_t group_size, int64_t world_size);

// Numbers that a rank holds at most at once, by train.shard and the ranks of a group. Works for
// parameters that are declared alone.
struct Held {
  double values = 0, gradients = 0, moments = 0;
};
Held numbers_held(const model::Parameters& parameters, const std::string& shard, int64_t ranks);

// Not thread-safe. All ranks make one and use it alike.
class Shards {
 public:
  // Meets the groups. `world` and `parameters`, which are allocated, outlive it; the parameters'
  // storages get room for whole parts.
  Shards(Communicator& world, model::Parameters& parameters, int64_t group_size);

  // The ranks that share one copy out, and the ranks of other copies that keep the same part.
  Communicator& group() { return group_ ? *group_ : world_; }
  Communicator& replicas() { return *replicas_; }
  const Part& part(size_t storage) const { return parts_[storage]; }
  // The numbers of `view`, contiguous in the values of one of the storages, that this rank keeps.
  model::Share kept_of(const at::Tensor& view) const;
  // A storage's values with the room at its end, padded() numbers.
  at::Tensor whole(size_t storage) const;

  // What this rank updates, as views of the whole values and gradients.
  std::vector<model::OwnedSlice> owned_of_whole() const;
  // Every rank's part of the values becomes every rank's. One all-gather a storage, few of them at
  // a time. Throws Error(kIo).
  void gather_values();

 private:
  Communicator& world_;
  model::Parameters& parameters_;
  std::unique_ptr<Communicator> group_, replicas_;
  std::vector<Part> parts_;  // of each storage
};

// Memory under tensors that stay as they are: views of a storage survive its memory.
// `like` decides the dtype and device.
at::Tensor over_storage(const at::Tensor& like, int64_t numbers);
// Gives the storage of `tensor` fresh memory for `numbers` numbers, all zero on the CPU.
void give_memory(const at::Tensor& tensor, int64_t numbers);
// Frees the memory of the storage of `tensor`; reading a view of it is then an error of the caller.
void drop_memory(const at::Tensor& tensor);

}  // namespace keiko::dist
