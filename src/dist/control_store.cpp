// The control plane's store over c10d's TCPStore.

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "dist/control_plane.h"

namespace keiko::dist {
namespace {

template <class Call>
auto asking(Call call) {
  try {
    return call();
  } catch (const std::exception& e) {
    std::string cause = e.what();
    cause.resize(std::min(cause.find('\n'), cause.size()));
    throw Error(ErrorKind::kIo, cause);
  }
}

class TcpControlStore : public ControlStore {
 public:
  TcpControlStore(const LaunchEnvironment& launch, double timeout_s)
      : name_(fmt::format("the store of {} at {}:{}",
                          launch.agent_serves_store ? "torchrun's agent" : "rank 0",
                          launch.master_addr, launch.master_port)) {
    asking([&] {
      c10d::TCPStoreOptions options;
      options.port = uint16_t(launch.master_port);
      options.isServer = false;
      options.waitWorkers = false;
      options.timeout = std::chrono::milliseconds(int64_t(timeout_s * 1000));
      store_ = c10::make_intrusive<c10d::TCPStore>(launch.master_addr, options);
    });
  }
  void set(const std::string& key, const std::string& value) override {
    asking([&] { store_->set(key, std::vector<uint8_t>(value.begin(), value.end())); });
  }
  std::optional<std::string> get(const std::string& key) override {
    return asking([&]() -> std::optional<std::string> {
      if (!store_->check({key})) return std::nullopt;
      const auto bytes = store_->get(key);
      return std::string(bytes.begin(), bytes.end());
    });
  }
  std::string describe() const override { return name_; }

 private:
  std::string name_;
  c10::intrusive_ptr<c10d::TCPStore> store_;
};

}  // namespace

std::unique_ptr<ControlStore> connect_control_store(const LaunchEnvironment& launch,
                                                    double timeout_s) {
  if (launch.world_size == 1) return nullptr;
  return std::make_unique<TcpControlStore>(launch, timeout_s);
}

}  // namespace keiko::dist
