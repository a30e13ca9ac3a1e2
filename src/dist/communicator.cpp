#include "dist/communicator.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstring>

#include "base/error.h"

namespace keiko::dist {
namespace {

class NoWork : public Work {
 public:
  void wait() override {}
};

class SingleCommunicator : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world_size() const override { return 1; }
  std::unique_ptr<Work> all_reduce(at::Tensor) override { return std::make_unique<NoWork>(); }
  at::Tensor all_gather(const at::Tensor& tensor) override { return tensor.unsqueeze(0); }
  void broadcast(at::Tensor, int64_t) override {}
  void barrier() override {}
};

// c10d's errors as ours, with the collective's name in front.
template <class Call>
auto named(const char* collective, int64_t rank, Call call) {
  try {
    return call();
  } catch (const std::exception& e) {
    std::string cause = e.what();
    cause.resize(std::min(cause.find('\n'), cause.size()));
    fail(ErrorKind::kIo,
         "rank {}: {} failed: {}. A rank is dead, silent or cut off; start the job again to go on "
         "from the last checkpoint",
         rank, collective, cause);
  }
}

class GlooWork : public Work {
 public:
  GlooWork(c10::intrusive_ptr<c10d::Work> work, const char* collective, int64_t rank)
      : work_(std::move(work)), collective_(collective), rank_(rank) {}
  void wait() override {
    named(collective_, rank_, [&] { work_->wait(); });
  }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
  const char* collective_;
  int64_t rank_;
};

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(const LaunchEnvironment& launch, double timeout_s)
      : rank_(launch.rank), world_size_(launch.world_size) {
    const auto timeout = std::chrono::milliseconds(int64_t(timeout_s * 1000));
    named("meeting the other ranks", rank_, [&] {
      c10d::TCPStoreOptions options;
      options.port = uint16_t(launch.master_port);
      options.isServer = launch.rank == 0 && !launch.agent_serves_store;
      options.numWorkers = size_t(launch.world_size);
      options.waitWorkers = false;
      options.timeout = timeout;
      store_ = c10::make_intrusive<c10d::TCPStore>(launch.master_addr, options);
      const auto prefixed =
          c10::make_intrusive<c10d::PrefixStore>(fmt::format("keiko/{}", launch.restart), store_);
      const auto gloo = c10d::ProcessGroupGloo::Options::create();
      gloo->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
      gloo->timeout = timeout;
      group_ =
          c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, int(rank_), int(world_size_), gloo);
    });
  }

  int64_t rank() const override { return rank_; }
  int64_t world_size() const override { return world_size_; }

  std::unique_ptr<Work> all_reduce(at::Tensor tensor) override {
    std::vector<at::Tensor> tensors{std::move(tensor)};
    return std::make_unique<GlooWork>(
        named("all_reduce", rank_, [&] { return group_->allreduce(tensors); }), "all_reduce",
        rank_);
  }
  at::Tensor all_gather(const at::Tensor& tensor) override {
    auto shape = tensor.sizes().vec();
    shape.insert(shape.begin(), world_size_);
    at::Tensor out = at::empty(shape, tensor.options());
    at::Tensor flat_out = out.view({-1}), flat_in = tensor.contiguous().view({-1});
    // Named all_gather_single from torch 2.13 on; the old name forwards there.
    named("all_gather", rank_, [&] { group_->_allgather_base(flat_out, flat_in)->wait(); });
    return out;
  }
  void broadcast(at::Tensor tensor, int64_t root) override {
    std::vector<at::Tensor> tensors{std::move(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    named("broadcast", rank_, [&] { group_->broadcast(tensors, options)->wait(); });
  }
  void barrier() override {
    at::Tensor one = at::ones({1});
    all_reduce(one)->wait();
  }

 private:
  int64_t rank_, world_size_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::string Communicator::broadcast_text(const std::string& text) {
  at::Tensor size = at::tensor(int64_t(text.size()));
  broadcast(size, 0);
  at::Tensor bytes = at::empty({std::max<int64_t>(1, size.item<int64_t>())}, at::kByte);
  if (rank() == 0) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  broadcast(bytes, 0);
  return {static_cast<const char*>(bytes.const_data_ptr()), size_t(size.item<int64_t>())};
}

std::unique_ptr<Communicator> make_communicator(const LaunchEnvironment& launch, double timeout_s) {
  if (launch.world_size == 1) return std::make_unique<SingleCommunicator>();
  return std::make_unique<GlooCommunicator>(launch, timeout_s);
}

}  // namespace keiko::dist
