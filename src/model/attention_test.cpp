#include "model/attention.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "model/attention_kernels.h"

namespace keiko::model {
namespace {

struct Case {
  int64_t clips, tokens, heads, width, first;
};
// Fewer and more than a block of queries or keys, and widths that fill no vector.
const Case kCases[] = {{2, 1, 1, 64, 0},   {1, 7, 2, 5, 3},     {2, 64, 3, 32, 0},
                       {1, 65, 2, 64, 10}, {1, 192, 1, 16, 0},  {1, 193, 2, 80, 192},
                       {2, 160, 6, 64, 0}, {1, 411, 2, 64, 40}, {1, 800, 1, 22, 1}};

at::Tensor noise(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kFloat);
}

// Attention written out, in double.
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const at::Tensor scores =
      at::matmul(q.transpose(1, 2), k.permute({0, 2, 3, 1})) / std::sqrt(double(q.size(3)));
  return at::matmul(scores.softmax(-1), v.transpose(1, 2)).transpose(1, 2).flatten(2);
}

double error_of(const at::Tensor& seen, const at::Tensor& truth) {
  return (seen.to(at::kDouble) - truth).abs().max().item<double>() /
         truth.abs().max().item<double>();
}

TEST(Attention, EqualsTheFormulaAndItsGradientInDouble) {
  if (attention_kernels() == nullptr) GTEST_SKIP() << "this processor has no AVX2: ATen computes";
  for (const Case& c : kCases) {
    SCOPED_TRACE(fmt::format("{} tokens, width {}, first {}", c.tokens, c.width, c.first));
    at::Tensor qkv = (2 * noise({c.clips, c.tokens, 3, c.heads, c.width}, 1)).requires_grad_();
    const at::Tensor grad = noise({c.clips, c.tokens - c.first, c.heads * c.width}, 2);
    const at::Tensor out = attend(qkv, c.first);
    out.backward(grad);
    at::Tensor wide = qkv.detach().to(at::kDouble).requires_grad_();
    const at::Tensor truth =
        plain_attention(wide.select(2, 0).slice(1, c.first), wide.select(2, 1), wide.select(2, 2));
    truth.backward(grad.to(at::kDouble));
    EXPECT_LT(error_of(out, truth), 3e-6);
    EXPECT_LT(error_of(qkv.grad(), wide.grad()), 1e-5);
    EXPECT_EQ(attend(qkv.detach().to(at::kDouble), c.first).scalar_type(), at::kDouble);
    EXPECT_LT(error_of(attend(qkv.detach().to(at::kDouble), c.first), truth), 1e-12);
  }
}

TEST(Attention, OfSeparateTensorsEqualsThatOfPackedOnes) {
  for (const Case& c : kCases) {
    at::Tensor qkv = noise({c.clips, c.tokens, 3, c.heads, c.width}, 3).requires_grad_();
    const at::Tensor grad = noise({c.clips, c.tokens - c.first, c.heads * c.width}, 4);
    attend(qkv, c.first).backward(grad);
    std::vector<at::Tensor> parts;
    for (int64_t i = 0; i < 3; ++i)
      parts.push_back(qkv.detach()
                          .select(2, i)
                          .slice(1, i == 0 ? c.first : 0)
                          .clone(at::MemoryFormat::Contiguous)
                          .requires_grad_());
    const at::Tensor apart = attend(parts[0], parts[1], parts[2]);
    EXPECT_TRUE(apart.equal(attend(qkv, c.first)));
    apart.backward(grad);
    EXPECT_TRUE(parts[0].grad().equal(qkv.grad().select(2, 0).slice(1, c.first)));
    EXPECT_TRUE(parts[1].grad().equal(qkv.grad().select(2, 1)));
    EXPECT_TRUE(parts[2].grad().equal(qkv.grad().select(2, 2)));
    EXPECT_EQ(qkv.grad().select(2, 0).slice(1, 0, c.first).abs().sum().item<float>(), 0);
  }
}

// The way of other dtypes and devices, run here in both.
TEST(Attention, InAtenEqualsTheFormulaAndItsGradientToo) {
  for (const Case& c : kCases)
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      SCOPED_TRACE(fmt::format("{} tokens, width {}, first {}, {}", c.tokens, c.width, c.first,
                               at::toString(dtype)));
      const at::Tensor numbers = 2 * noise({c.clips, c.tokens, 3, c.heads, c.width}, 1);
      const at::Tensor grad = noise({c.clips, c.tokens - c.first, c.heads * c.width}, 2);
      const auto run = [&](const at::Tensor& qkv, const auto& attention) {
        const at::Tensor out =
            attention(qkv.select(2, 0).slice(1, c.first), qkv.select(2, 1), qkv.select(2, 2));
        out.backward(grad.to(qkv.scalar_type()));
        return out;
      };
      at::Tensor seen = numbers.to(dtype).detach().requires_grad_();
      at::Tensor wide = numbers.to(at::kDouble).detach().requires_grad_();
      const at::Tensor out = run(seen, attend_in_aten), truth = run(wide, plain_attention);
      EXPECT_LT(error_of(out, truth), dtype == at::kDouble ? 1e-12 : 3e-6);
      EXPECT_LT(error_of(seen.grad(), wide.grad()), dtype == at::kDouble ? 1e-12 : 1e-5);
    }
}

TEST(Attention, GivesTheSameBitsForAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  std::vector<at::Tensor> outs, grads;
  for (int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    at::Tensor qkv = noise({2, 200, 3, 5, 64}, 5).requires_grad_();
    outs.push_back(attend(qkv));
    outs.back().backward(noise(outs.back().sizes(), 6));
    grads.push_back(qkv.grad());
  }
  at::set_num_threads(before);
  for (size_t i = 1; i < outs.size(); ++i) {
    EXPECT_TRUE(outs[i].equal(outs[0]));
    EXPECT_TRUE(grads[i].equal(grads[0]));
  }
}

// Scores far apart: the exponentials of most underflow, and none may turn into a NaN.
// at::parallel_for is a template, and a plain loop where it is compiled without OpenMP.
TEST(Attention, RunsOnAllComputeThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> waiting{2};
  std::atomic<int> together{0};
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    --waiting;
    // Only another thread can bring the count down meanwhile.
    for (int i = 0; i < 2000 && waiting > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    together += waiting == 0;
  });
  EXPECT_EQ(together, 2);
  at::set_num_threads(before);
}

TEST(Attention, SurvivesLargeScores) {
  at::Tensor qkv = (100 * noise({1, 300, 3, 2, 64}, 7)).requires_grad_();
  const at::Tensor out = attend(qkv);
  out.sum().backward();
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  EXPECT_TRUE(qkv.grad().isfinite().all().item<bool>());
  const at::Tensor wide = qkv.detach().to(at::kDouble);
  EXPECT_LT(error_of(out, plain_attention(wide.select(2, 0), wide.select(2, 1), wide.select(2, 2))),
            1e-3);  // float32 cannot resolve scores near 10,000 better than that
}

// Not-a-number must not be lost on the way: a run has to notice.
TEST(Attention, PassesOnNotANumber) {
  at::Tensor qkv = noise({1, 70, 3, 1, 64}, 8);
  qkv[0][5][1].fill_(std::nan(""));
  EXPECT_TRUE(attend(qkv).isnan().any().item<bool>());
}

TEST(Attention, EveryKernelThatThisProcessorRunsAgrees) {
  std::vector<const AttentionKernels*> known;
#if defined(__x86_64__)
  if (kAvx2Attention != nullptr && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    known.push_back(kAvx2Attention);
  if (kAvx512Attention != nullptr && __builtin_cpu_supports("avx512f"))
    known.push_back(kAvx512Attention);
#endif
  if (known.size() < 2) GTEST_SKIP() << "this processor has fewer than two kinds of kernels";
  const int64_t n = 250, d = 40;
  std::vector<at::Tensor> outs, grads;
  const at::Tensor upstream = noise({n, d}, 12);
  for (const AttentionKernels* kernels : known) {
    const at::Tensor q = noise({n, d}, 9), k = noise({n, d}, 10), v = noise({n, d}, 11);
    const at::Tensor out = at::empty({n, d}), sums = at::empty({n});
    const at::Tensor scratch = at::empty({kernels->forward_scratch(n, n, d)});
    AttentionHead head;
    head.queries = head.keys = n;
    head.width = head.q_step = head.k_step = head.v_step = head.out_step = d;
    head.q = q.data_ptr<float>(), head.k = k.data_ptr<float>(), head.v = v.data_ptr<float>();
    head.out = out.data_ptr<float>(), head.log_sum = sums.data_ptr<float>();
    kernels->forward(head, scratch.data_ptr<float>());
    outs.push_back(out);
    const at::Tensor grad = at::empty({3, n, d});
    const at::Tensor more = at::empty({kernels->backward_scratch(n, n, d)});
    head.out_grad = upstream.const_data_ptr<float>();
    head.q_grad = grad[0].data_ptr<float>();
    head.k_grad = grad[1].data_ptr<float>();
    head.v_grad = grad[2].data_ptr<float>();
    head.out_grad_step = head.q_grad_step = head.k_grad_step = head.v_grad_step = d;
    kernels->backward(head, more.data_ptr<float>());
    grads.push_back(grad);
  }
  EXPECT_LT(error_of(grads[0], grads[1].to(at::kDouble)), 1e-5);
  EXPECT_LT(error_of(outs[0], outs[1].to(at::kDouble)), 1e-6);
}

}  // namespace
}  // namespace keiko::model
