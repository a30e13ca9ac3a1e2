#include "model/linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace keiko::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// oneDNN's x W^T + b; registered by ATen for its compiler, hence without a C++ name.
at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight,
                         const std::optional<at::Tensor>& bias) {
  using Signature = at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

bool has_onednn() {
  static const bool found =
      c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""}).has_value() &&
      at::hasMKLDNN();
  return found;
}

// Whether oneDNN beats ATen's own product, which on x86 is MKL's. On AMD's processors it does for
// every shape of these models; on Intel's only where there are many rows (bench:
// docs/performance.md). A function of the processor's kind and the shape, never of a measurement:
// bits must come again.
bool prefers_onednn(int64_t rows) {
#if defined(__x86_64__)
  static const bool is_intel = __builtin_cpu_is("intel");
#else
  static const bool is_intel = false;
#endif
  constexpr int64_t kManyRows = 4096;
  return !is_intel || rows >= kManyRows;
}

// rows W^T + b, [n, in] -> [n, out].
at::Tensor product(const at::Tensor& rows, const at::Tensor& weight,
                   const std::optional<at::Tensor>& bias) {
  return prefers_onednn(rows.size(0)) ? onednn_linear(rows, weight, bias)
                                      : at::linear(rows, weight, bias);
}

// Adds to the gradient of a leaf whose buffer is there; otherwise returns it for autograd to place.
template <class Add, class Make>
at::Tensor place_gradient(const at::Tensor& leaf, const Add& add, const Make& make) {
  if (leaf.is_leaf() && leaf.grad().defined()) {
    add(leaf.mutable_grad());
    return {};
  }
  return make();
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({x, weight, bias.value_or(at::Tensor())});
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    auto shape = x.sizes().vec();
    shape.back() = weight.size(0);
    return product(rows, weight, bias).view(shape);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const c10::NoGradGuard no_grad;
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    const at::Tensor grad = grads[0].reshape({-1, weight.size(0)}).contiguous();
    at::Tensor x_grad, weight_grad, bias_grad;
    if (context->needs_input_grad(0))
      x_grad = product(grad, weight.t(), std::nullopt).view(x.sizes());
    if (context->needs_input_grad(1)) {
      const at::Tensor rows = x.reshape({-1, x.size(-1)});
      weight_grad = place_gradient(
          weight, [&](at::Tensor& sum) { sum.addmm_(grad.t(), rows); },
          [&] { return at::mm(grad.t(), rows); });
    }
    if (bias.defined() && context->needs_input_grad(2))
      bias_grad = place_gradient(
          bias, [&](at::Tensor& sum) { sum.add_(grad.sum(0)); }, [&] { return grad.sum(0); });
    return {x_grad, weight_grad, bias_grad};
  }
};

}  // namespace

at::Tensor apply_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (x.device().is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
      x.numel() > 0 && !at::autocast::is_autocast_enabled(at::kCPU) && has_onednn())
    return LinearFunction::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

}  // namespace keiko::model
