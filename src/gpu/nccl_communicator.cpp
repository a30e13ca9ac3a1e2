#include "gpu/nccl_communicator.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "cuda/stream.h"
#include "dist/c10d_work.h"
#include "dist/wait_clock.h"

namespace keiko::gpu {
namespace {

using dist::Communicator;
using dist::Work;

// An event of CUDA in torch's current stream.
class EventMark : public dist::StreamMark {
 public:
  explicit EventMark(at::Device device)
      : device_(device.index()), event_(device_, /*has_time=*/true) {}
  void record() override {
    event_.record(cuda::Stream(device_, c10::cuda::getCurrentCUDAStream(device_).stream()));
  }
  bool is_reached() const override { return event_.is_reached(); }
  double seconds_since(const dist::StreamMark& earlier) const override {
    return 1e-3 * event_.elapsed_ms(static_cast<const EventMark&>(earlier).event_);
  }

 private:
  c10::DeviceIndex device_;
  cuda::Event event_;
};

class NcclCommunicator : public Communicator {
 public:
  // `host` has the same ranks; `owned` is it when nobody else keeps it.
  NcclCommunicator(Communicator& host, std::unique_ptr<Communicator> owned, at::Device device,
                   std::chrono::milliseconds timeout, dist::Watcher* watcher)
      : host_(host),
        owned_(std::move(owned)),
        device_(device),
        timeout_(timeout),
        watcher_(watcher) {
    if (host_.world_size() == 1) return;  // nothing travels
    // torch would poll the store for a sign of another rank's time-out, and find that of an earlier
    // start where a launcher keeps the store.
    ::setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 0);
    const auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    const auto store = c10::intrusive_ptr<c10d::Store>::reclaim_copy(host_.store());
    group_ = dist::named("meeting the other GPUs", rank(), watcher_, [&] {
      auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(
          c10::make_intrusive<c10d::PrefixStore>(host_.meeting() + "/nccl", store), int(rank()),
          int(world_size()), options);
      group->setBoundDeviceId(device_);
      return group;
    });
  }

  // Aborts nothing that a slower rank still needs: all ranks come here after a last barrier.
  ~NcclCommunicator() override {
    try {
      if (group_) group_->shutdown();
    } catch (const std::exception& e) {
      spdlog::warn("closing NCCL: {}", dist::first_line(e));
    }
  }

  int64_t rank() const override { return host_.rank(); }
  int64_t world_size() const override { return host_.world_size(); }

  std::unique_ptr<Work> all_reduce(at::Tensor tensor, const std::string& what) override {
    if (!is_mine(tensor)) return host_.all_reduce(tensor, what);
    std::vector<at::Tensor> tensors{std::move(tensor)};
    return start(what, [&] { return group_->allreduce(tensors); });
  }
  std::unique_ptr<Work> reduce_scatter(at::Tensor out, const at::Tensor& in,
                                       const std::string& what) override {
    if (!is_mine(in)) return host_.reduce_scatter(out, in, what);
    at::Tensor all = in;
    return start(what, [&] { return group_->_reduce_scatter_base(out, all); });
  }
  std::unique_ptr<Work> all_gather_into(at::Tensor out, const at::Tensor& in,
                                        const std::string& what) override {
    if (!is_mine(in)) return host_.all_gather_into(out, in, what);
    at::Tensor mine = in;
    return start(what, [&] { return group_->_allgather_base(out, mine); });
  }
  void broadcast(at::Tensor tensor, int64_t root) override {
    if (!is_mine(tensor)) return host_.broadcast(tensor, root);
    std::vector<at::Tensor> tensors{std::move(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    start("broadcast", [&] { return group_->broadcast(tensors, options); })->wait();
  }
  void barrier() override { host_.barrier(); }
  std::unique_ptr<Communicator> group(const std::string& name,
                                      const std::vector<int64_t>& members) override {
    auto host = host_.group(name, members);
    Communicator& borrowed = *host;
    return std::make_unique<NcclCommunicator>(borrowed, std::move(host), device_, timeout_,
                                              watcher_);
  }
  std::unique_ptr<dist::StreamMark> make_stream_mark(at::Device device) override {
    if (!device.is_cuda()) return nullptr;
    return std::make_unique<EventMark>(device);
  }
  std::string meeting() const override { return host_.meeting(); }
  c10d::Store* store() const override { return host_.store(); }
  void set_watcher(dist::Watcher* watcher) override {
    watcher_ = watcher;
    host_.set_watcher(watcher);
  }

 private:
  bool is_mine(const at::Tensor& tensor) const { return tensor.is_cuda() && group_; }
  template <class Start>
  std::unique_ptr<Work> start(const std::string& what, Start begin) {
    return std::make_unique<dist::C10dWork>(dist::named(what, rank(), watcher_, begin), what,
                                            rank(), watcher_);
  }

  Communicator& host_;
  std::unique_ptr<Communicator> owned_;
  at::Device device_;
  std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> group_;
  dist::Watcher* watcher_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, at::Device device,
                                                     double timeout_s) {
  return std::make_unique<NcclCommunicator>(
      host, nullptr, device, std::chrono::milliseconds(int64_t(timeout_s * 1000)), nullptr);
}

}  // namespace keiko::gpu
