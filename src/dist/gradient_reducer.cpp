#include "dist/gradient_reducer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "base/error.h"

namespace keiko::dist {

// Runs after autograd's node that adds a gradient to its parameter, also when there was nothing
// left to add because the product itself had done so (model/linear.cpp).
class GradientReducer::Hook : public torch::autograd::FunctionPostHook {
 public:
  Hook(std::shared_ptr<GradientReducer*> reducer, size_t bucket)
      : reducer_(std::move(reducer)), bucket_(bucket) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    if (*reducer_) (*reducer_)->hook(bucket_);
    return outputs;
  }

 private:
  std::shared_ptr<GradientReducer*> reducer_;
  size_t bucket_;
};

void ReduceOptions::bind(config::Binder& b) {
  b.key("overlap", overlap, "sum gradients over ranks while backward runs; else after it").free();
  b.choice("wire", wire, {"fp32", "bf16"},
           "gradients travel as they are, or rounded to bf16: half the bytes, other sums");
  b.key("bucket_mb", bucket_mb, "smallest bucket of gradients that travels, MiB")
      .range(0, 4096)
      .free();
}

std::vector<Bucket> cut_buckets(const model::Parameters& parameters, int64_t bucket_bytes) {
  const auto& blocks = parameters.blocks();
  std::vector<Bucket> buckets;
  for (size_t last = blocks.size(); last > 0;) {
    Bucket bucket;
    bucket.last = bucket.first = last;
    do {
      bucket.bytes += int64_t(blocks[--bucket.first].grad.nbytes());
    } while (bucket.bytes < bucket_bytes && bucket.first > 1);
    last = bucket.first;
    buckets.push_back(bucket);
  }
  return buckets;
}

GradientReducer::GradientReducer(Communicator& communicator, model::Parameters& parameters,
                                 const ReduceOptions& options)
    : communicator_(communicator),
      parameters_(parameters),
      options_(options),
      buckets_(cut_buckets(parameters, int64_t(options.bucket_mb * (1 << 20)))),
      sending_(buckets_.size()),
      seen_(buckets_.size(), 0),
      wanted_(buckets_.size(), -1),
      self_(std::make_shared<GradientReducer*>(this)),
      clock_(communicator.make_wait_clock(parameters.device())) {
  if (communicator_.world_size() > 1 && options_.overlap) add_hooks();
}

// Collectives under way keep what they write alive by themselves; waiting for them here could take
// as long as a dead rank is silent.
GradientReducer::~GradientReducer() { *self_ = nullptr; }

void GradientReducer::add_hooks() {
  for (const model::Parameter& p : parameters_.all()) {
    const auto bucket = std::find_if(buckets_.begin(), buckets_.end(),
                                     [&](const Bucket& b) { return b.first <= p.storage; });
    const auto node = torch::autograd::impl::grad_accumulator(p.value);
    node->add_post_hook(std::make_unique<Hook>(self_, size_t(bucket - buckets_.begin())));
    kept_.push_back(node);  // a parameter keeps only a weak reference to it
  }
}

void GradientReducer::arm() {
  is_armed_ = true;
  started_early_ = 0;
  std::fill(seen_.begin(), seen_.end(), 0);
}

void GradientReducer::hook(size_t bucket) {
  if (!is_armed_) return;
  ++seen_[bucket];
  if (bucket < next_)
    fail(ErrorKind::kInternal,
         "bucket {} was sent after {} gradients, and another one came; set reduce.overlap: false",
         bucket, wanted_[bucket]);
  while (next_ < buckets_.size() && wanted_[next_] > 0 && seen_[next_] >= wanted_[next_]) {
    start(next_++);
    ++started_early_;
  }
}

void GradientReducer::start(size_t number) {
  const c10::NoGradGuard no_grad;
  const Bucket& bucket = buckets_[number];
  const auto& blocks = parameters_.blocks();
  Sending& sending = sending_[number];
  const bool rounds = options_.wire == "bf16";
  if (bucket.last - bucket.first == 1 && !rounds) {
    sending.staged = blocks[bucket.first].grad;
  } else {
    std::vector<at::Tensor> parts;
    for (size_t i = bucket.first; i < bucket.last; ++i)
      parts.push_back(rounds ? blocks[i].grad.to(at::kBFloat16) : blocks[i].grad);
    sending.staged = at::cat(parts);
  }
  sending.work =
      communicator_.all_reduce(sending.staged, fmt::format("all_reduce of bucket {}", number));
}

void GradientReducer::start_rest() {
  if (communicator_.world_size() == 1) return;
  if (is_armed_)
    for (size_t i = 0; i < wanted_.size(); ++i)
      if (wanted_[i] < 0) wanted_[i] = seen_[i];
  is_armed_ = false;
  while (next_ < buckets_.size()) start(next_++);
}

void GradientReducer::wait() {
  if (communicator_.world_size() == 1) return;
  const c10::NoGradGuard no_grad;
  clock_->begin();
  for (size_t number = 0; number < buckets_.size(); ++number) {
    const Bucket& bucket = buckets_[number];
    Sending sending = std::move(sending_[number]);
    sending.work->wait();
    int64_t start = 0;
    for (size_t i = bucket.first; i < bucket.last; ++i) {
      at::Tensor grad = parameters_.blocks()[i].grad;
      if (!sending.staged.is_same(grad)) grad.copy_(sending.staged.narrow(0, start, grad.numel()));
      start += grad.numel();
    }
  }
  clock_->end();
  next_ = 0;
}

}  // namespace keiko::dist
