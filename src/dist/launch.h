// Who this process is among all ranks: the one place that reads the launchers' variables.

#pragma once
#include <cstdint>
#include <string>

namespace keiko::dist {

struct LaunchEnvironment {
  int64_t rank = 0, world_size = 1, local_rank = 0, local_world_size = 1;
  std::string master_addr = "127.0.0.1";
  int master_port = 0;
  // torchrun serves the store from its agent; a rank must not serve a second one on that port.
  bool agent_serves_store = false;
  int64_t restart = 0;  // how often torchrun restarted this job
};

// Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without RANK
// and WORLD_SIZE this is a run of one rank. Throws Error(kUsage) naming the variable that is
// missing or not a number in range.
LaunchEnvironment read_launch_environment();

// The same for work whose ranks meet through files: MASTER_ADDR and MASTER_PORT need not be set.
LaunchEnvironment read_rank_and_world_size();

}  // namespace keiko::dist
