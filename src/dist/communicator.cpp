#include "dist/communicator.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/machine.h"
#include "dist/c10d_work.h"

namespace keiko::dist {
namespace {

class NoWork : public Work {
 public:
  void wait() override {}
  bool is_done() override { return true; }
};

class SingleCommunicator : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t world_size() const override { return 1; }
  std::unique_ptr<Work> all_reduce(at::Tensor, const std::string&) override {
    return std::make_unique<NoWork>();
  }
  std::unique_ptr<Work> reduce_scatter(at::Tensor out, const at::Tensor& in,
                                       const std::string&) override {
    out.copy_(in);
    return std::make_unique<NoWork>();
  }
  std::unique_ptr<Work> all_gather_into(at::Tensor out, const at::Tensor& in,
                                        const std::string&) override {
    out.copy_(in);
    return std::make_unique<NoWork>();
  }
  void broadcast(at::Tensor, int64_t) override {}
  void barrier() override {}
  std::unique_ptr<Communicator> group(const std::string&, const std::vector<int64_t>&) override {
    return std::make_unique<SingleCommunicator>();
  }
  std::string meeting() const override { return "alone"; }
  c10d::Store* store() const override { return nullptr; }
  void set_watcher(Watcher*) override {}
};

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(c10::intrusive_ptr<c10d::Store> store, const std::string& name, int64_t rank,
                   int64_t world_size, std::chrono::milliseconds timeout, Watcher* watcher)
      : name_(name),
        rank_(rank),
        world_size_(world_size),
        timeout_(timeout),
        store_(std::move(store)),
        watcher_(watcher) {
    const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, store_);
    const auto gloo = c10d::ProcessGroupGloo::Options::create();
    // A machine with several networks must be told which one; the variable is PyTorch's.
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    gloo->devices.push_back(interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                      : c10d::ProcessGroupGloo::createDefaultDevice());
    gloo->timeout = timeout;
    group_ =
        c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, int(rank_), int(world_size_), gloo);
  }

  int64_t rank() const override { return rank_; }
  int64_t world_size() const override { return world_size_; }

  std::unique_ptr<Work> all_reduce(at::Tensor tensor, const std::string& what) override {
    std::vector<at::Tensor> tensors{std::move(tensor)};
    return start(what, [&] { return group_->allreduce(tensors); });
  }
  // Named reduce_scatter_single and all_gather_single from torch 2.13 on; the old names forward
  // there.
  std::unique_ptr<Work> reduce_scatter(at::Tensor out, const at::Tensor& in,
                                       const std::string& what) override {
    at::Tensor all = in;
    return start(what, [&] { return group_->_reduce_scatter_base(out, all); });
  }
  std::unique_ptr<Work> all_gather_into(at::Tensor out, const at::Tensor& in,
                                        const std::string& what) override {
    at::Tensor mine = in;
    return start(what, [&] { return group_->_allgather_base(out, mine); });
  }
  void broadcast(at::Tensor tensor, int64_t root) override {
    std::vector<at::Tensor> tensors{std::move(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    start("broadcast", [&] { return group_->broadcast(tensors, options); })->wait();
  }
  void barrier() override {
    at::Tensor one = at::ones({1});
    all_reduce(one, "barrier")->wait();
  }
  std::unique_ptr<Communicator> group(const std::string& name,
                                      const std::vector<int64_t>& members) override {
    if (members.size() == 1) return std::make_unique<SingleCommunicator>();
    const auto me = std::find(members.begin(), members.end(), rank_);
    if (me == members.end())
      fail(ErrorKind::kInternal, "rank {} is no member of group {}", rank_, name);
    return named("meeting group " + name, rank_, watcher_, [&] {
      // Under a name of its own each time: what a group that is gone left in the store is not it.
      return std::make_unique<GlooCommunicator>(
          store_, fmt::format("{}/group/{}/{}", name_, ++groups_, name), me - members.begin(),
          int64_t(members.size()), timeout_, watcher_);
    });
  }
  std::string meeting() const override { return name_; }
  c10d::Store* store() const override { return store_.get(); }
  void set_watcher(Watcher* watcher) override { watcher_ = watcher; }

 private:
  template <class Start>
  std::unique_ptr<Work> start(const std::string& what, Start begin) {
    return std::make_unique<C10dWork>(named(what, rank_, watcher_, begin), what, rank_, watcher_);
  }

  std::string name_;
  int64_t groups_ = 0;  // made so far; members make them in the same order
  int64_t rank_, world_size_;
  std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  Watcher* watcher_;
};

// The name of this meeting, from rank 0. torchrun's agents keep their store when they start ranks
// again, and do not count alike: what lies in it from an earlier start must not be taken for new.
// So each rank says hello with a word that nobody said before, and rank 0 answers to that word
// until every rank has thanked it for this very meeting.
std::string agree_on_meeting(c10d::Store& store, const LaunchEnvironment& launch,
                             double timeout_s) {
  const auto put = [&](const std::string& key, const std::string& value) {
    store.set(key, std::vector<uint8_t>(value.begin(), value.end()));
  };
  const auto look = [&](const std::string& key) -> std::string {
    if (!store.check({key})) return "";
    const auto bytes = store.get(key);
    return {bytes.begin(), bytes.end()};
  };
  const auto hello = [](int64_t rank) { return fmt::format("keiko/hello/{}", rank); };
  if (launch.rank != 0) {
    const std::string word =
        fmt::format("{}.{}.{:.9f}", host_name(), int64_t(::getpid()), monotonic_s());
    put(hello(launch.rank), word);
    // Has a time-out of its own, also when the store's host hangs.
    store.wait({"keiko/answer/" + word}, std::chrono::milliseconds(int64_t(timeout_s * 1000)));
    const std::string meeting = look("keiko/answer/" + word);
    put(fmt::format("{}/thanks/{}", meeting, launch.rank), word);
    return meeting;
  }
  const std::string meeting = fmt::format("keiko/{}", store.add("keiko/meetings", 1));
  std::map<int64_t, std::string> answered;
  const double until = monotonic_s() + timeout_s;
  for (;;) {
    int64_t absent = 0;
    for (int64_t rank = launch.world_size - 1; rank > 0; --rank) {
      const std::string word = look(hello(rank));
      if (!word.empty() && answered[rank] != word)
        put("keiko/answer/" + (answered[rank] = word), meeting);
      if (word.empty() || look(fmt::format("{}/thanks/{}", meeting, rank)) != word) absent = rank;
    }
    if (absent == 0) return meeting;
    if (monotonic_s() > until)
      fail(ErrorKind::kIo, "rank {} did not come within {:g} s", absent, timeout_s);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace

at::Tensor Communicator::all_gather(const at::Tensor& tensor) {
  auto shape = tensor.sizes().vec();
  shape.insert(shape.begin(), world_size());
  at::Tensor out = at::empty(shape, tensor.options());
  all_gather_into(out.view({-1}), tensor.contiguous().view({-1}))->wait();
  return out;
}

std::unique_ptr<WaitClock> Communicator::make_wait_clock(at::Device device) {
  if (!make_stream_mark(device)) return make_thread_clock();
  return std::make_unique<StreamClock>([&] { return make_stream_mark(device); });
}

std::string Communicator::broadcast_text(const std::string& text) {
  at::Tensor size = at::tensor(int64_t(text.size()));
  broadcast(size, 0);
  at::Tensor bytes = at::empty({std::max<int64_t>(1, size.item<int64_t>())}, at::kByte);
  if (rank() == 0) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  broadcast(bytes, 0);
  return {static_cast<const char*>(bytes.const_data_ptr()), size_t(size.item<int64_t>())};
}

std::vector<std::string> Communicator::gather_texts(const std::string& text) {
  const at::Tensor sizes = all_gather(at::tensor(int64_t(text.size())));
  const int64_t longest = std::max<int64_t>(1, sizes.max().item<int64_t>());
  at::Tensor mine = at::zeros({longest}, at::kByte);
  std::memcpy(mine.data_ptr(), text.data(), text.size());
  const at::Tensor all = all_gather(mine);
  std::vector<std::string> texts;
  for (int64_t r = 0; r < world_size(); ++r)
    texts.emplace_back(static_cast<const char*>(all[r].const_data_ptr()),
                       size_t(sizes[r].item<int64_t>()));
  return texts;
}

std::unique_ptr<Communicator> make_communicator(const LaunchEnvironment& launch, double timeout_s) {
  if (launch.world_size == 1) return std::make_unique<SingleCommunicator>();
  // A rank that is gone is an error of the write to it, which names the rank; not a silent death.
  std::signal(SIGPIPE, SIG_IGN);
  const auto timeout = std::chrono::milliseconds(int64_t(timeout_s * 1000));
  return named("meeting the other ranks", launch.rank, nullptr, [&] {
    c10d::TCPStoreOptions options;
    options.port = uint16_t(launch.master_port);
    options.isServer = launch.rank == 0 && !launch.agent_serves_store;
    options.numWorkers = size_t(launch.world_size);
    options.waitWorkers = false;
    options.timeout = timeout;
    const auto store = c10::make_intrusive<c10d::TCPStore>(launch.master_addr, options);
    return std::make_unique<GlooCommunicator>(store, agree_on_meeting(*store, launch, timeout_s),
                                              launch.rank, launch.world_size, timeout, nullptr);
  });
}

}  // namespace keiko::dist
