// Gradients, and parameters too where asked for, of which each rank keeps only a part.
//
// ZeRO stages 2 and 3 (Rajbhandari et al. 2020) by block, as FSDP does it (Zhao et al. 2023): a
// block's gradients exist whole only from the start of its backward until they are summed and
// shared out, while earlier blocks are computed; with parameters shared out, a block's values exist
// whole only around its forward and its backward, and those of the next block travel meanwhile.
// What a model reads around its blocks (embeddings, last norms, heads) is whole through a step.
//
// The order of collectives follows the graph of the model, which is the same on all ranks. Every
// run of a block sends its gradients, also where it runs several times (V-JEPA's masks) and in
// inner micro-batches: keeping them whole until the last one would keep what is to be saved. With
// reduce.overlap = false they stay whole until the pass is over. Under bf16 autocast keeps rounded
// copies of weights from forward to backward, which are not shared out.
//
// Whatever starts or waits for a collective, backward() included, throws Error(kIo) when a rank is
// gone; the object is of no use then.

#pragma once
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/reducer.h"
#include "dist/sharding.h"
#include "model/block_runner.h"

namespace keiko::dist {

// Not thread-safe; the backward pass must run on the thread that calls it.
class ShardedBlocks : public Reducer {
 public:
  // `shards_values`: the parameters too. Until take_shares() they are whole. All outlive it.
  ShardedBlocks(Shards& shards, model::Parameters& parameters, const ReduceOptions& options,
                bool shards_values);
  ~ShardedBlocks() override;
  ShardedBlocks(const ShardedBlocks&) = delete;
  ShardedBlocks& operator=(const ShardedBlocks&) = delete;

  bool shards_values() const { return shards_values_; }
  // What this rank updates, buffer by buffer: the same tensors for the life of this.
  const std::vector<model::OwnedSlice>& owned() const { return owned_; }

  // The whole values are what counts: this rank keeps its part of them and drops the rest. Call
  // when first values or a checkpoint's are there, and after whole values were changed.
  void take_shares();
  // All values whole, for what happens between steps: evaluation, checkpoints, moving averages.
  // Throws Error(kIo). drop_all() ends that.
  void gather_all();
  void drop_all();

  // Runs a block of the parameters with its values there, around `inner`.
  at::Tensor run(int index, const model::BlockRunner::Forward& forward, const at::Tensor& input,
                 const model::BlockRunner& inner);

  void begin_step() override;
  void begin_pass(bool is_last) override;
  void end_pass() override;
  void start_rest() override;
  void wait() override;
  double waited_s() override { return clock_->last_s(); }

  // Most numbers of values and gradients that were whole at once since the last begin_step().
  int64_t most_whole() const { return most_whole_; }

 private:
  class Hook;
  struct State {
    bool has_values = true, has_grads = true;  // memory for them whole
    std::unique_ptr<Work> gathering;           // of the values
    bool is_sending = false;                   // the gradients
    at::Tensor value_part, grad_part;
  };
  struct Sending {
    size_t storage;
    std::unique_ptr<Work> work;
    at::Tensor staged, out;
  };

  void start_gather(size_t storage);
  void need_values(size_t storage);
  void drop_values(size_t storage);
  void need_grads(size_t storage);
  void before_backward(size_t storage);
  void after_backward(size_t storage);
  void send(size_t storage);
  void finish_one();
  void replicate();
  std::optional<size_t> inside_near(size_t storage, int step) const;
  void count_whole(int64_t numbers);

  Shards& shards_;
  model::Parameters& parameters_;
  ReduceOptions options_;
  bool shards_values_;
  std::vector<State> states_;     // of each storage
  std::map<int, size_t> inside_;  // storage of each block that runs
  std::vector<model::OwnedSlice> owned_;
  std::deque<Sending> sending_;
  std::shared_ptr<ShardedBlocks*> self_;  // emptied when this dies before the hooks
  int64_t whole_ = 0, most_whole_ = 0;
  std::unique_ptr<WaitClock> clock_;  // of wait()
};

// Hands blocks to a ShardedBlocks, which must outlive it, around `inner`.
class ShardingRunner : public model::BlockRunner {
 public:
  ShardingRunner(ShardedBlocks& blocks, const model::BlockRunner& inner)
      : blocks_(blocks), inner_(inner) {}
  at::Tensor run(int index, const Forward& forward, const at::Tensor& input) const override {
    return blocks_.run(index, forward, input, inner_);
  }

 private:
  ShardedBlocks& blocks_;
  const model::BlockRunner& inner_;
};

}  // namespace keiko::dist
