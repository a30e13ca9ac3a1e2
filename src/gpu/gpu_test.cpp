// What can only be seen on a GPU; skips loudly without one.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "dist/ranks_for_tests.h"
#include "gpu/accelerator.h"

namespace keiko::gpu {
namespace {

// Forks before anything of CUDA is touched: a child cannot use a context of its parent.
TEST(Gpu, NcclCarriesWhatIsOnTheGpuAndGlooTheRest) {
  for (int64_t world : {1, 2, 3})
    dist::run_ranks(world, [world](dist::Communicator& host) {
      if (cuda::device_count() == 0) return 0;  // said by the next test
      // NCCL takes ranks on one GPU for ranks of several hosts, then.
      ::setenv("NCCL_HOSTID", fmt::format("rank-{}", host.rank()).c_str(), 1);
      const auto gpu = load_accelerator(int(host.rank()) % cuda::device_count());
      const auto c = gpu->make_communicator(host, 60);
      const double sum = double(world * (world + 1) / 2);
      for (const at::Device device : {at::Device(at::kCPU), gpu->device()}) {
        const auto options = at::TensorOptions().device(device).dtype(at::kFloat);
        const at::Tensor x = at::full({1000}, double(host.rank() + 1), options);
        c->all_reduce(x)->wait();
        if (!x.eq(sum).all().item<bool>()) return 2;
        const at::Tensor whole = at::empty({world * 4}, options);
        c->all_gather_into(whole, at::full({4}, double(host.rank()), options))->wait();
        const at::Tensor expected = at::arange(world, options).repeat_interleave(4);
        if (!at::equal(whole, expected)) return 3;
        const at::Tensor part = at::empty({4}, options);
        c->reduce_scatter(part, expected.clone())->wait();
        if (!part.eq(double(world * host.rank())).all().item<bool>()) return 4;
        const at::Tensor said = at::full({3}, double(host.rank()), options);
        c->broadcast(said, world - 1);
        if (!said.eq(double(world - 1)).all().item<bool>()) return 5;
      }
      // Rank 0 comes late: the device of the others waits for it, and not their threads.
      constexpr double kLate = 0.3;
      const auto clock = c->make_wait_clock(gpu->device());
      const at::Tensor y = at::ones({1000}, at::TensorOptions().device(gpu->device()));
      c->all_reduce(y)->wait();  // the first one of this size prepares
      gpu->synchronize();
      c->barrier();
      if (host.rank() == 0) std::this_thread::sleep_for(std::chrono::duration<double>(kLate));
      const auto late = c->all_reduce(y);
      clock->begin();
      late->wait();
      clock->end();
      gpu->synchronize();
      if (host.rank() > 0 && !(clock->last_s() > kLate / 2 && clock->last_s() < 30)) return 6;
      c->barrier();  // nobody goes while another still receives
      return 0;
    });
}

TEST(Gpu, TorchComputesOnItAndCountsItsMemory) {
  if (cuda::device_count() == 0) GTEST_SKIP() << "no GPU: " << why_no_accelerator();
  const auto gpu = load_accelerator(0);
  gpu->reset_peak_memory();
  const int64_t before = gpu->memory().allocated;
  const at::Tensor a = at::arange(1 << 20, at::kDouble).reshape({1024, 1024}).remainder(7);
  const at::Tensor product = a.to(gpu->device()).matmul(a.t().to(gpu->device()));
  gpu->synchronize();
  EXPECT_TRUE(at::equal(product.cpu(), a.matmul(a.t())));  // whole numbers: any order is exact
  EXPECT_GE(gpu->memory().peak_allocated - before, 3 * 8 * (1 << 20));
  EXPECT_GT(gpu->memory().total, gpu->memory().allocated);
  EXPECT_FALSE(gpu->name().empty());
}

// The gradient of sum((w x)^2) by w is 2 w x^2, added to what is there.
TEST(Gpu, ARecordingDoesItsWorkAgainOnWhatLiesInItsMemory) {
  if (cuda::device_count() == 0) GTEST_SKIP() << "no GPU: " << why_no_accelerator();
  const auto gpu = load_accelerator(0);
  const auto recorder = gpu->make_recorder();
  const auto options = at::TensorOptions().device(gpu->device()).dtype(at::kFloat);
  const at::Tensor x = at::zeros({1024}, options);
  at::Tensor w = at::full({1024}, 3, options).requires_grad_();
  w.mutable_grad() = at::zeros({1024}, options);
  at::Tensor loss;
  const auto work = [&] {
    const at::Tensor squares = (w * x).square().sum();
    squares.backward();
    loss = squares.detach();
  };
  std::unique_ptr<Recording> recording;
  double sum = 0;
  for (int64_t step = 1; step <= 6; ++step) {
    x.fill_(double(step));
    sum += 2 * 3 * double(step * step);
    if (step == 4) recording = recorder->record(work);
    if (recording) {
      recording->replay();
    } else {
      recorder->run(work);
    }
    EXPECT_EQ(loss.item<float>(), 1024.0f * 9 * float(step * step)) << step;
    EXPECT_TRUE(w.grad().eq(sum).all().item<bool>()) << step;
  }
  // A look at a value: the host would wait.
  EXPECT_THROW(recorder->record([&] { (void)x.sum().item<float>(); }), Error);
  // It can be used on, and record again.
  x.fill_(1);
  recording->replay();
  EXPECT_EQ(loss.item<float>(), 1024.0f * 9);
  const auto again = recorder->record(work);
  x.fill_(2);
  again->replay();
  EXPECT_EQ(loss.item<float>(), 1024.0f * 9 * 4);
}

}  // namespace
}  // namespace keiko::gpu
