#include "model/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "model/attention_kernels.h"

namespace keiko::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Clips and heads of [B, N, heads, D], wherever they lie.
struct Heads {
  float* data;
  int64_t clip, token, head;  // floats from one to the next

  explicit Heads(const at::Tensor& x)
      : data(const_cast<float*>(x.const_data_ptr<float>())),
        clip(x.stride(0)),
        token(x.stride(1)),
        head(x.stride(2)) {}
  float* at(int64_t b, int64_t h) const { return data + b * clip + h * head; }
};

bool has_kernel(const at::Tensor& x) {
  return attention_kernels() != nullptr && x.device().is_cpu() && x.scalar_type() == at::kFloat &&
         x.stride(-1) == 1;
}

// Runs `kernel` for every clip and head, each in scratch memory of its own thread.
template <class Kernel, class Describe>
void for_each_head(int64_t clips, int64_t heads, int64_t scratch_size, const Kernel& kernel,
                   const Describe& describe) {
  at::parallel_for(0, clips * heads, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({scratch_size}, at::kFloat);
    for (int64_t i = begin; i < end; ++i)
      kernel(describe(i / heads, i % heads), scratch.data_ptr<float>());
  });
}

AttentionHead describe_head(const Heads& q, const Heads& k, const Heads& v, int64_t queries,
                            int64_t keys, int64_t width, int64_t b, int64_t h) {
  AttentionHead head;
  head.queries = queries;
  head.keys = keys;
  head.width = width;
  head.scale = float(1 / std::sqrt(double(width)));
  head.q = q.at(b, h), head.q_step = q.token;
  head.k = k.at(b, h), head.k_step = k.token;
  head.v = v.at(b, h), head.v_step = v.token;
  return head;
}

// [B, M, heads, D] and the logarithms of the softmax's divisors [B, heads, M].
std::pair<at::Tensor, at::Tensor> run_forward(const at::Tensor& q, const at::Tensor& k,
                                              const at::Tensor& v) {
  const int64_t b = q.size(0), m = q.size(1), h = q.size(2), d = q.size(3), n = k.size(1);
  at::Tensor out = at::empty({b, m, h, d}, q.options());
  at::Tensor log_sum = at::empty({b, h, m}, q.options());
  const AttentionKernels& kernels = *attention_kernels();
  const Heads qs(q), ks(k), vs(v), outs(out);
  float* sums = log_sum.data_ptr<float>();
  for_each_head(b, h, kernels.forward_scratch(m, n, d), kernels.forward, [&](int64_t i, int64_t j) {
    AttentionHead head = describe_head(qs, ks, vs, m, n, d, i, j);
    head.out = outs.at(i, j), head.out_step = outs.token;
    head.log_sum = sums + (i * h + j) * m;
    return head;
  });
  return {out, log_sum};
}

// Writes the gradients of q, k and v into the last three tensors, which have their shapes.
void run_backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& out, const at::Tensor& log_sum, const at::Tensor& out_grad,
                  const at::Tensor& q_grad, const at::Tensor& k_grad, const at::Tensor& v_grad) {
  const int64_t b = q.size(0), m = q.size(1), h = q.size(2), d = q.size(3), n = k.size(1);
  const AttentionKernels& kernels = *attention_kernels();
  const Heads qs(q), ks(k), vs(v), outs(out), grads(out_grad);
  const Heads q_grads(q_grad), k_grads(k_grad), v_grads(v_grad);
  const auto* sums = log_sum.const_data_ptr<float>();
  for_each_head(b, h, kernels.backward_scratch(m, n, d), kernels.backward,
                [&](int64_t i, int64_t j) {
                  AttentionHead head = describe_head(qs, ks, vs, m, n, d, i, j);
                  head.out = outs.at(i, j), head.out_step = outs.token;
                  head.log_sum = const_cast<float*>(sums) + (i * h + j) * m;
                  head.out_grad = grads.at(i, j), head.out_grad_step = grads.token;
                  head.q_grad = q_grads.at(i, j), head.q_grad_step = q_grads.token;
                  head.k_grad = k_grads.at(i, j), head.k_grad_step = k_grads.token;
                  head.v_grad = v_grads.at(i, j), head.v_grad_step = v_grads.token;
                  return head;
                });
}

at::Tensor heads_of(const at::Tensor& grad, int64_t heads) {
  return grad.contiguous().view({grad.size(0), grad.size(1), heads, grad.size(2) / heads});
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, int64_t first) {
    const auto [out, log_sum] =
        run_forward(qkv.select(2, 0).slice(1, first), qkv.select(2, 1), qkv.select(2, 2));
    context->save_for_backward({qkv, out, log_sum});
    context->saved_data["first"] = first;
    return out.flatten(2);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const int64_t first = context->saved_data["first"].toInt();
    const at::Tensor& qkv = saved[0];
    const at::Tensor grad = at::empty(qkv.sizes(), qkv.options());
    const at::Tensor q_grad = grad.select(2, 0);
    if (first > 0) q_grad.slice(1, 0, first).zero_();
    run_backward(qkv.select(2, 0).slice(1, first), qkv.select(2, 1), qkv.select(2, 2), saved[1],
                 saved[2], heads_of(grads[0], qkv.size(3)), q_grad.slice(1, first),
                 grad.select(2, 1), grad.select(2, 2));
    return {grad, at::Tensor()};
  }
};

struct SplitAttention : torch::autograd::Function<SplitAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) {
    const auto [out, log_sum] = run_forward(q, k, v);
    context->save_for_backward({q, k, v, out, log_sum});
    return out.flatten(2);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const at::Tensor q_grad = at::empty(q.sizes(), q.options());
    const at::Tensor k_grad = at::empty(k.sizes(), k.options());
    const at::Tensor v_grad = at::empty(v.sizes(), v.options());
    run_backward(q, k, v, saved[3], saved[4], heads_of(grads[0], q.size(2)), q_grad, k_grad,
                 v_grad);
    return {q_grad, k_grad, v_grad};
  }
};

}  // namespace

const AttentionKernels* attention_kernels() {
  static const AttentionKernels* const best = []() -> const AttentionKernels* {
#if defined(__x86_64__)
    if (kAvx512Attention != nullptr && __builtin_cpu_supports("avx512f")) return kAvx512Attention;
    if (kAvx2Attention != nullptr && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
      return kAvx2Attention;
#endif
    return nullptr;
  }();
  return best;
}

at::Tensor attend(const at::Tensor& qkv, int64_t first) {
  if (has_kernel(qkv)) return PackedAttention::apply(qkv, first);
  const auto parts = qkv.unbind(2);
  return attend_in_aten(first > 0 ? parts[0].slice(1, first) : parts[0], parts[1], parts[2]);
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (has_kernel(q) && has_kernel(k) && has_kernel(v)) return SplitAttention::apply(q, k, v);
  return attend_in_aten(q, k, v);
}

at::Tensor attend_in_aten(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
      .transpose(1, 2)
      .flatten(2);
}

}  // namespace keiko::model
