#include "model/meta_device_for_tests.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <fmt/ranges.h>
#include <torch/library.h>

#include <algorithm>

namespace keiko::model {
namespace {

thread_local MetaWatch* watching = nullptr;

void collect(const c10::IValue& value, std::vector<at::Tensor>& to) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) to.push_back(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) collect(element, to);
  }
}

// Their results, or the shapes of these, depend on values. (Some of them throw by themselves.)
constexpr const char* kReadsValues[] = {"aten::item",
                                        "aten::_local_scalar_dense",
                                        "aten::is_nonzero",
                                        "aten::equal",
                                        "aten::nonzero",
                                        "aten::masked_select",
                                        "aten::_unique2",
                                        "aten::unique_dim",
                                        "aten::repeat_interleave",
                                        "aten::bincount",
                                        "aten::allclose",
                                        "aten::nonzero_numpy"};

}  // namespace

MetaWatch::MetaWatch() {
  TORCH_CHECK(watching == nullptr, "one MetaWatch of a thread at a time");
  watching = this;
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&MetaWatch::look)
                                           .needsInputs(true)
                                           .scopes({at::RecordScope::FUNCTION}));
}

MetaWatch::~MetaWatch() {
  at::removeCallback(handle_);
  watching = nullptr;
}

std::unique_ptr<at::ObserverContext> MetaWatch::look(const at::RecordFunction& function) {
  if (watching != nullptr) watching->look_at(function.name(), function.inputs());
  return nullptr;
}

void MetaWatch::note(const std::string& fault) {
  if (std::find(faults_.begin(), faults_.end(), fault) == faults_.end()) faults_.push_back(fault);
}

void MetaWatch::look_at(const std::string& name, c10::ArrayRef<const c10::IValue> inputs) {
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& input : inputs) collect(input, tensors);
  const auto is_meta = [](const at::Tensor& t) { return t.is_meta(); };
  if (std::none_of(tensors.begin(), tensors.end(), is_meta)) return;
  ++operations_;
  if (name == "aten::copy_") {
    if (tensors[0].is_meta() && tensors[1].is_cpu()) {
      ++uploads_;
      if (!inputs[2].toBool())
        note(fmt::format("the host waits while [{}] go to the device",
                         fmt::join(tensors[1].sizes(), ", ")));
    } else if (tensors[0].is_cpu()) {
      downloads_.push_back(tensors[1].sizes().vec());
    }
    return;
  }
  for (const char* reader : kReadsValues)
    if (name == reader) note(name + " reads values");
  for (const at::Tensor& t : tensors) {
    // A number on the CPU goes along with the call of a kernel.
    if (t.is_cpu() && t.dim() > 0)
      note(fmt::format("{} takes [{}] of the CPU beside tensors of the device", name,
                       fmt::join(t.sizes(), ", ")));
    // where() alone brings it there by a copy of its own.
    if (t.is_cpu() && t.dim() == 0 && name == "aten::where")
      note("the host waits while aten::where copies a number to the device");
    if ((name == "aten::index" || name == "aten::index_put_") && t.is_meta() &&
        t.scalar_type() == at::kBool && !t.is_same(tensors[0]))
      note(name + " by flags has a shape that depends on values");
  }
}

// Shape rules of operations that torch 2.11 has rules for in Python alone
// (torch/_meta_registrations.py and its decompositions).
namespace rules {

at::Tensor index_select(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  TORCH_CHECK(index.dim() == 1, "index_select by ", index.dim(), " dimensions");
  auto shape = self.sizes().vec();
  shape[size_t(at::maybe_wrap_dim(dim, self.dim()))] = index.numel();
  return at::empty(shape, self.options());
}

std::vector<int64_t> statistics_shape(const at::Tensor& input, size_t normalized) {
  auto shape = input.sizes().vec();
  for (size_t i = shape.size() - normalized; i < shape.size(); ++i) shape[i] = 1;
  return shape;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> native_layer_norm(
    const at::Tensor& input, c10::SymIntArrayRef shape, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, double) {
  for (const auto& affine : {weight, bias})
    if (affine.has_value() && affine->defined())
      TORCH_CHECK(affine->sizes() == C10_AS_INTARRAYREF_SLOW(shape), "another shape");
  const auto statistics = statistics_shape(input, shape.size());
  return {at::empty(input.sizes(), input.options()), at::empty(statistics, input.options()),
          at::empty(statistics, input.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> native_layer_norm_backward(
    const at::Tensor& grad, const at::Tensor& input, c10::SymIntArrayRef, const at::Tensor&,
    const at::Tensor&, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, std::array<bool, 3> wanted) {
  TORCH_CHECK(grad.sizes() == input.sizes(), "another shape");
  const auto like = [](const at::Tensor& t) { return at::empty(t.sizes(), t.options()); };
  return {wanted[0] ? like(input) : at::Tensor(), wanted[1] ? like(*weight) : at::Tensor(),
          wanted[2] ? like(*bias) : at::Tensor()};
}

at::Tensor std_correction(const at::Tensor& self, at::OptionalIntArrayRef dims,
                          const std::optional<at::Scalar>&, bool keepdim) {
  return at::sum(self, dims, keepdim);
}

std::tuple<at::Tensor, at::Tensor> var_mean_correction(const at::Tensor& self,
                                                       at::OptionalIntArrayRef dims,
                                                       const std::optional<at::Scalar>&,
                                                       bool keepdim) {
  return {at::sum(self, dims, keepdim), at::sum(self, dims, keepdim)};
}

at::Tensor cdist_forward(const at::Tensor& a, const at::Tensor& b, double, std::optional<int64_t>) {
  TORCH_CHECK(a.size(-1) == b.size(-1) && a.size(0) == b.size(0), "another shape");
  return at::empty({a.size(0), a.size(1), b.size(1)}, a.options());
}

at::Tensor& nan_to_num_out(const at::Tensor& self, std::optional<double>, std::optional<double>,
                           std::optional<double>, at::Tensor& out) {
  out.resize_(self.sizes());
  return out;
}

std::tuple<at::Tensor, at::Tensor> log_sigmoid_forward(const at::Tensor& self) {
  return {at::empty_like(self), at::empty_like(self)};
}

at::Tensor safe_softmax(const at::Tensor& self, int64_t dim, std::optional<at::ScalarType> dtype) {
  return at::softmax(self, dim, dtype);
}

at::Tensor floor_divide(const at::Tensor& self, const at::Tensor& other) {
  return at::div(self, other, "floor");
}

at::Tensor mse_loss_backward(const at::Tensor& grad, const at::Tensor& self,
                             const at::Tensor& target, int64_t) {
  return grad * (self - target);
}

at::Tensor& smooth_l1_loss_backward_out(const at::Tensor& grad, const at::Tensor& self,
                                        const at::Tensor& target, int64_t, double,
                                        at::Tensor& out) {
  out.resize_((grad * (self - target)).sizes());
  return out;
}

at::Tensor where(const at::Tensor& condition, const at::Tensor& self, const at::Tensor& other) {
  TORCH_CHECK(self.scalar_type() == other.scalar_type(), "other types");
  const auto shape = at::infer_size(self.sizes(), other.sizes());
  return at::empty(at::infer_size(condition.sizes(), shape),
                   condition.options().dtype(self.dtype()));
}

at::Tensor isnan(const at::Tensor& self) { return self.ne(self); }

at::Tensor& as_one(const at::Tensor& self, at::Tensor& out) {
  out.resize_(self.sizes());
  return out;
}

at::Tensor& as_both(const at::Tensor& self, const at::Tensor& other, at::Tensor& out) {
  out.resize_(at::infer_size(self.sizes(), other.sizes()));
  return out;
}

// As the CUDA kernel takes it: everything there, the step too.
void check_adamw(at::TensorList values, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList steps) {
  for (size_t i = 0; i < values.size(); ++i) {
    for (const at::Tensor& t : {grads[i], exp_avgs[i], exp_avg_sqs[i]})
      TORCH_CHECK(t.is_meta() && t.sizes() == values[i].sizes() &&
                      t.scalar_type() == values[i].scalar_type(),
                  "not like its parameter");
    TORCH_CHECK(steps[i].is_meta() && steps[i].numel() == 1 && steps[i].scalar_type() == at::kFloat,
                "a step that the kernel cannot read");
  }
}

void fused_adamw(at::TensorList values, at::TensorList grads, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, at::TensorList, at::TensorList steps, double, double,
                 double, double, double, bool, bool, const std::optional<at::Tensor>&,
                 const std::optional<at::Tensor>&) {
  check_adamw(values, grads, exp_avgs, exp_avg_sqs, steps);
}

void fused_adamw_with_tensor(at::TensorList values, at::TensorList grads, at::TensorList exp_avgs,
                             at::TensorList exp_avg_sqs, at::TensorList, at::TensorList steps,
                             const at::Tensor& lr, double, double, double, double, bool, bool,
                             const std::optional<at::Tensor>&, const std::optional<at::Tensor>&) {
  check_adamw(values, grads, exp_avgs, exp_avg_sqs, steps);
  TORCH_CHECK(lr.is_meta() && lr.scalar_type() == at::kFloat, "a rate that the kernel cannot read");
}

}  // namespace rules

TORCH_LIBRARY_IMPL(aten, Meta, m) {
  m.impl("index_select", rules::index_select);
  m.impl("native_layer_norm", rules::native_layer_norm);
  m.impl("native_layer_norm_backward", rules::native_layer_norm_backward);
  m.impl("std.correction", rules::std_correction);
  m.impl("var_mean.correction", rules::var_mean_correction);
  m.impl("_cdist_forward", rules::cdist_forward);
  m.impl("nan_to_num.out", rules::nan_to_num_out);
  m.impl("log_sigmoid_forward", rules::log_sigmoid_forward);
  for (const char* name : {"abs.out", "logical_not.out"}) m.impl(name, rules::as_one);
  for (const char* name : {"logical_and.out", "logical_or.out"}) m.impl(name, rules::as_both);
  m.impl("mse_loss_backward", rules::mse_loss_backward);
  m.impl("smooth_l1_loss_backward.grad_input", rules::smooth_l1_loss_backward_out);
  m.impl("isnan", rules::isnan);
  m.impl("where.self", rules::where);
  m.impl("floor_divide", rules::floor_divide);
  m.impl("_safe_softmax", rules::safe_softmax);
  m.impl("_fused_adamw_", rules::fused_adamw);
  m.impl("_fused_adamw_.tensor_lr", rules::fused_adamw_with_tensor);
}

}  // namespace keiko::model
