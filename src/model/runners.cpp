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
};

// Whether a backward thread's autocast is as the forward's was.
class AutocastAs {
 public:
  explicit AutocastAs(bool on) : before_(at::autocast::is_autocast_enabled(at::kCPU)) {
    at::autocast::set_autocast_enabled(at::kCPU, on);
    at::autocast::increment_nesting();
  }
  // The last one out empties the cache of converted weights, or the next step would run on weights
  // from before its update.
  ~AutocastAs() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, before_);
  }
  AutocastAs(const AutocastAs&) = delete;
  AutocastAs& operator=(const AutocastAs&) = delete;

 private:
  bool before_;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const BlockRunner::Forward& block) {
    auto kept = c10::make_intrusive<KeptForward>();
    kept->forward = block;
    kept->use_autocast = at::autocast::is_autocast_enabled(at::kCPU);
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
      const AutocastAs autocast(kept->use_autocast);
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
  seen_.emplace_back(index, output.detach().to(at::kDouble).square().mean().sqrt().item<double>());
  return output;
}

}  // namespace keiko::model
