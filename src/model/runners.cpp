#include "model/runners.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace keiko::model {
namespace {

// A block's forward in a form that an autograd context can keep.
struct KeptForward : torch::CustomClassHolder {
  BlockRunner::Forward forward;
  bool use_autocast = false;
  at::ScalarType autocast_dtype = at::kBFloat16;
};

// Whether autocast on the device of `input` is on; on some (meta) there is none.
bool uses_autocast(const at::Tensor& input) {
  const auto type = input.device().type();
  return at::autocast::is_autocast_available(type) && at::autocast::is_autocast_enabled(type);
}

// Makes a backward thread's autocast as the forward's was, for one kind of device.
class AutocastAs {
 public:
  AutocastAs(at::DeviceType type, const KeptForward& kept) : type_(type) {
    if (!at::autocast::is_autocast_available(type)) return;
    is_known_ = true;
    before_ = at::autocast::is_autocast_enabled(type);
    dtype_before_ = at::autocast::get_autocast_dtype(type);
    at::autocast::set_autocast_enabled(type, kept.use_autocast);
    if (kept.use_autocast) at::autocast::set_autocast_dtype(type, kept.autocast_dtype);
    at::autocast::increment_nesting();
  }
  // The last one out empties the cache of converted weights, or the next step would run on weights
  // from before its update.
  ~AutocastAs() {
    if (!is_known_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type_, before_);
    at::autocast::set_autocast_dtype(type_, dtype_before_);
  }
  AutocastAs(const AutocastAs&) = delete;
  AutocastAs& operator=(const AutocastAs&) = delete;

 private:
  at::DeviceType type_;
  bool is_known_ = false, before_ = false;
  at::ScalarType dtype_before_ = at::kBFloat16;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const BlockRunner::Forward& block) {
    auto kept = c10::make_intrusive<KeptForward>();
    kept->forward = block;
    kept->use_autocast = uses_autocast(input);
    if (kept->use_autocast)
      kept->autocast_dtype = at::autocast::get_autocast_dtype(input.device().type());
    context->saved_data["block"] = c10::IValue::make_capsule(kept);
    context->save_for_backward({input});
    return block(input);  // in here no graph is recorded
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               const torch::autograd::tensor_list& gradients) {
    const auto kept =
        c10::static_intrusive_pointer_cast<KeptForward>(context->saved_data["block"].toCapsule());
    const at::Tensor input = context->get_saved_variables()[0].detach().requires_grad_(true);
    at::Tensor output;
    {
      const c10::AutoGradMode with_graph(true);
      const AutocastAs autocast(input.device().type(), *kept);
      output = kept->forward(input);
    }
    // Adds to the parameters' gradients as it goes.
    torch::autograd::backward({output}, {gradients[0]});
    return {input.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor CheckpointingRunner::run(int, const Forward& forward, const at::Tensor& input) const {
  if (!c10::GradMode::is_enabled() || !input.requires_grad()) return forward(input);
  return Recomputed::apply(input, forward);
}

at::Tensor WatchingRunner::run(int index, const Forward& forward, const at::Tensor& input) const {
  const at::Tensor output = inner_.run(index, forward, input);
  const c10::NoGradGuard no_grad;
  pending_.emplace_back(index, output.detach().to(at::kDouble).square().mean().sqrt());
  return output;
}

std::vector<std::pair<int, double>> WatchingRunner::seen() const {
  std::vector<std::pair<int, double>> seen;
  if (pending_.empty()) return seen;
  std::vector<at::Tensor> roots;
  for (const auto& [index, root] : pending_) roots.push_back(root);
  const at::Tensor numbers = at::stack(roots).cpu();
  for (size_t i = 0; i < pending_.size(); ++i)
    seen.emplace_back(pending_[i].first, numbers[int64_t(i)].item<double>());
  return seen;
}

}  // namespace keiko::model
