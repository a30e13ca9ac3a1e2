#include "dist/launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace keiko::dist {
namespace {

int64_t read_number(const char* name, int64_t low, int64_t high) {
  const char* text = std::getenv(name);
  if (text == nullptr)
    fail(ErrorKind::kUsage,
         "{} is not set, but other variables of a distributed run are; a launcher sets RANK, "
         "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
         name);
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, code] = std::from_chars(text, end, value);
  if (code != std::errc() || stop != end || value < low || value > high)
    fail(ErrorKind::kUsage, "{} = {} is not a number from {} to {}", name, text, low, high);
  return value;
}

}  // namespace

LaunchEnvironment read_rank_and_world_size() {
  LaunchEnvironment e;
  if (std::getenv("RANK") == nullptr && std::getenv("WORLD_SIZE") == nullptr) return e;
  e.world_size = read_number("WORLD_SIZE", 1, 1 << 20);
  e.rank = read_number("RANK", 0, e.world_size - 1);
  if (std::getenv("LOCAL_RANK") != nullptr) e.local_rank = read_number("LOCAL_RANK", 0, 1 << 16);
  // Without it, all ranks are taken to share this machine: too few threads rather than too many.
  e.local_world_size = std::getenv("LOCAL_WORLD_SIZE") != nullptr
                           ? read_number("LOCAL_WORLD_SIZE", 1, 1 << 16)
                           : e.world_size;
  return e;
}

LaunchEnvironment read_launch_environment() {
  LaunchEnvironment e = read_rank_and_world_size();
  if (e.world_size == 1) return e;
  const char* address = std::getenv("MASTER_ADDR");
  if (address == nullptr) read_number("MASTER_ADDR", 0, 0);  // fails, naming it
  e.master_addr = address;
  e.master_port = int(read_number("MASTER_PORT", 1, 65535));
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  e.agent_serves_store = agent != nullptr && std::strcmp(agent, "True") == 0;
  if (std::getenv("TORCHELASTIC_RESTART_COUNT") != nullptr)
    e.restart = read_number("TORCHELASTIC_RESTART_COUNT", 0, 1 << 30);
  return e;
}

}  // namespace keiko::dist
