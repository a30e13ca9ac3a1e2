#include "dist/sharded_blocks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include "base/error.h"
#include "model/flat_memory.h"

namespace keiko::dist {
namespace {

// Blocks whose gradients travel at once. Each keeps its gradients whole meanwhile.
constexpr size_t kMostSending = 2;

}  // namespace

// Runs when autograd has done with a block: behind the node that stands for its input.
class ShardedBlocks::Hook : public torch::autograd::FunctionPostHook {
 public:
  Hook(std::shared_ptr<ShardedBlocks*> blocks, size_t storage)
      : blocks_(std::move(blocks)), storage_(storage) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    if (*blocks_) (*blocks_)->after_backward(storage_);
    return outputs;
  }

 private:
  std::shared_ptr<ShardedBlocks*> blocks_;
  size_t storage_;
};

ShardedBlocks::ShardedBlocks(Shards& shards, model::Parameters& parameters,
                             const ReduceOptions& options, bool shards_values)
    : shards_(shards),
      parameters_(parameters),
      options_(options),
      shards_values_(shards_values),
      states_(parameters.blocks().size()),
      owned_(shards.owned_of_whole()),
      self_(std::make_shared<ShardedBlocks*>(this)),
      clock_(shards.group().make_wait_clock(parameters.device())) {
  for (size_t s = 0; s < states_.size(); ++s) {
    const model::BlockStorage& storage = parameters.blocks()[s];
    const Part& part = shards.part(s);
    State& state = states_[s];
    if (storage.is_inside) inside_[storage.block] = s;
    const auto zeros = [&] {
      return model::flat_zeros(part.length, parameters.dtype(), parameters.device());
    };
    state.grad_part = zeros();
    if (shards_values) state.value_part = zeros();
    for (size_t i = storage.first; i < storage.last; ++i) {
      const ViewShare mine = share_of_view(parameters.buffers()[i].value, part);
      owned_[i].grad = state.grad_part.narrow(0, mine.in_part, mine.share.count);
      if (shards_values)
        owned_[i].value = state.value_part.narrow(0, mine.in_part, mine.share.count);
    }
    drop_memory(storage.grad);
    state.has_grads = false;
    whole_ += part.padded();
  }
}

// Collectives under way keep what they write alive by themselves.
ShardedBlocks::~ShardedBlocks() { *self_ = nullptr; }

void ShardedBlocks::take_shares() {
  if (!shards_values_) return;
  const c10::NoGradGuard no_grad;
  for (size_t s = 0; s < states_.size(); ++s) {
    need_values(s);
    const Part& part = shards_.part(s);
    states_[s].value_part.copy_(shards_.whole(s).narrow(0, part.start, part.length));
    drop_values(s);
  }
}

void ShardedBlocks::gather_all() {
  if (!shards_values_) return;
  for (size_t s = 0; s < states_.size(); ++s) {
    start_gather(s);
    if (s > 0) need_values(s - 1);
  }
  if (!states_.empty()) need_values(states_.size() - 1);
}

void ShardedBlocks::drop_all() {
  for (size_t s = 0; s < states_.size(); ++s) drop_values(s);
}

at::Tensor ShardedBlocks::run(int index, const model::BlockRunner::Forward& forward,
                              const at::Tensor& input, const model::BlockRunner& inner) {
  const auto found = inside_.find(index);
  if (found == inside_.end()) return inner.run(index, forward, input);
  const size_t s = found->second;
  need_values(s);
  const auto next = inside_near(s, 1);
  if (next) start_gather(*next);
  if (!c10::GradMode::is_enabled()) {
    const at::Tensor output = inner.run(index, forward, input);
    if (next) drop_values(s);
    return output;
  }
  // An alias of the input is where the block begins in the graph: older than all of the block's
  // nodes, it runs when they have, and their parameters' gradients are complete. An input without
  // gradient gets one that is thrown away.
  const at::Tensor from = input.requires_grad() ? input : input.detach().requires_grad_(true);
  const at::Tensor begin = from.view_as(from);
  begin.grad_fn()->add_post_hook(std::make_unique<Hook>(self_, s));
  const at::Tensor output = inner.run(index, forward, begin);
  output.register_hook([self = self_, s](const at::Tensor& gradient) {
    if (*self) (*self)->before_backward(s);
    return gradient;
  });
  // The last block's backward follows at once.
  if (next) drop_values(s);
  return output;
}

void ShardedBlocks::begin_step() {
  const c10::NoGradGuard no_grad;
  most_whole_ = whole_;
  for (size_t s = 0; s < states_.size(); ++s) {
    states_[s].grad_part.zero_();
    if (parameters_.blocks()[s].is_inside) continue;
    start_gather(s);
    need_grads(s);
  }
}

void ShardedBlocks::begin_pass(bool) {
  for (size_t s = 0; s < states_.size(); ++s)
    if (!parameters_.blocks()[s].is_inside) need_values(s);
}

// What no gradient came through is sent now, if it was in use at all: by the same rule everywhere.
void ShardedBlocks::end_pass() {
  for (size_t s = states_.size(); s-- > 0;) {
    State& state = states_[s];
    if (!parameters_.blocks()[s].is_inside) continue;
    drop_values(s);
    if (state.has_grads && !state.is_sending) send(s);
  }
}

void ShardedBlocks::start_rest() {
  for (size_t s = states_.size(); s-- > 0;)
    if (!parameters_.blocks()[s].is_inside) send(s);
}

void ShardedBlocks::wait() {
  clock_->begin();
  while (!sending_.empty()) finish_one();
  replicate();
  clock_->end();
  drop_all();  // values are about to change
}

// Sums the parts over the groups' copies.
void ShardedBlocks::replicate() {
  if (shards_.replicas().world_size() == 1) return;
  const c10::NoGradGuard no_grad;
  struct Replicating {
    at::Tensor sum, part;  // what travels, and where it belongs
    std::unique_ptr<Work> work;
  };
  std::vector<Replicating> under_way;
  for (size_t s = states_.size(); s-- > 0;) {
    const at::Tensor& part = states_[s].grad_part;
    const at::Tensor sum = options_.wire == "bf16" ? part.to(at::kBFloat16) : part;
    auto work = shards_.replicas().all_reduce(
        sum, fmt::format("all_reduce of a part of block {}", parameters_.blocks()[s].block));
    under_way.push_back({sum, part, std::move(work)});
  }
  for (Replicating& r : under_way) {
    r.work->wait();
    if (!r.sum.is_same(r.part)) r.part.copy_(r.sum);
  }
}

void ShardedBlocks::start_gather(size_t s) {
  State& state = states_[s];
  if (state.has_values || state.gathering) return;
  const c10::NoGradGuard no_grad;
  const at::Tensor& value = parameters_.blocks()[s].value;
  give_memory(value, shards_.part(s).padded());
  count_whole(shards_.part(s).padded());
  state.gathering = shards_.group().all_gather_into(
      shards_.whole(s), state.value_part,
      fmt::format("all_gather of block {}", parameters_.blocks()[s].block));
}

void ShardedBlocks::need_values(size_t s) {
  State& state = states_[s];
  start_gather(s);
  if (state.gathering) state.gathering->wait();
  state.gathering.reset();
  state.has_values = true;
}

void ShardedBlocks::drop_values(size_t s) {
  State& state = states_[s];
  if (!shards_values_ || (!state.has_values && !state.gathering)) return;
  need_values(s);  // what is under way writes to this memory
  drop_memory(parameters_.blocks()[s].value);
  count_whole(-shards_.part(s).padded());
  state.has_values = false;
}

void ShardedBlocks::need_grads(size_t s) {
  State& state = states_[s];
  while (state.is_sending) finish_one();
  if (state.has_grads) return;
  const c10::NoGradGuard no_grad;
  const at::Tensor& grad = parameters_.blocks()[s].grad;
  give_memory(grad, shards_.part(s).padded());
  if (!grad.is_cpu()) over_storage(grad, shards_.part(s).padded()).zero_();
  count_whole(shards_.part(s).padded());
  state.has_grads = true;
}

void ShardedBlocks::before_backward(size_t s) {
  need_values(s);
  if (const auto before = inside_near(s, -1)) start_gather(*before);
  need_grads(s);
}

void ShardedBlocks::after_backward(size_t s) {
  drop_values(s);
  if (options_.overlap) send(s);
}

void ShardedBlocks::send(size_t s) {
  const c10::NoGradGuard no_grad;
  State& state = states_[s];
  const at::Tensor& grad = parameters_.blocks()[s].grad;
  const at::Tensor whole = over_storage(grad, shards_.part(s).padded());
  Sending sending;
  sending.storage = s;
  sending.staged = options_.wire == "bf16" ? whole.to(at::kBFloat16) : whole;
  sending.out = at::empty({shards_.part(s).length}, sending.staged.options());
  sending.work = shards_.group().reduce_scatter(
      sending.out, sending.staged,
      fmt::format("reduce_scatter of block {}", parameters_.blocks()[s].block));
  state.is_sending = true;
  sending_.push_back(std::move(sending));
  while (sending_.size() > kMostSending) finish_one();
}

// The oldest: its sum goes to this rank's part, and the whole gradients go.
void ShardedBlocks::finish_one() {
  const c10::NoGradGuard no_grad;
  Sending sending = std::move(sending_.front());
  sending_.pop_front();
  sending.work->wait();
  const size_t s = sending.storage;
  State& state = states_[s];
  state.grad_part.add_(sending.out);
  state.is_sending = false;
  sending.staged.reset();
  drop_memory(parameters_.blocks()[s].grad);
  count_whole(-shards_.part(s).padded());
  state.has_grads = false;
}

// The block that runs after (step 1) or before (-1) that of `storage`, if the parameters are laid
// out in the order in which blocks run. A wrong guess costs a gather, and is the same on all ranks.
std::optional<size_t> ShardedBlocks::inside_near(size_t storage, int step) const {
  auto at = inside_.find(parameters_.blocks()[storage].block);
  if (step < 0 && at == inside_.begin()) return std::nullopt;
  std::advance(at, step);
  if (at == inside_.end()) return std::nullopt;
  return at->second;
}

void ShardedBlocks::count_whole(int64_t numbers) {
  whole_ += numbers;
  most_whole_ = std::max(most_whole_, whole_);
}

}  // namespace keiko::dist
