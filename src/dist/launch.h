// Who this process is among all ranks: the one place that reads the launchers' variables.
//
// RANK and WORLD_SIZE come first; torchrun sets them, and so does who starts ranks by hand or from
// a Kubernetes manifest. Without both, what Open MPI's mpirun or Slurm's srun say is put in their
// place. Other variables of a cluster (a batch script's, a login shell's) make no run of several
// ranks.

#pragma once
#include <cstdint>
#include <string>

namespace keiko::dist {

struct LaunchEnvironment {
  // Ranks count from 0; the local ones are those of this machine.
  int64_t rank = 0, world_size = 1, local_rank = 0, local_world_size = 1;
  std::string master_addr = "127.0.0.1";  // where rank 0 (or torchrun's agent) serves the store
  int master_port = 0;                    // 1 to 65535; 0 when there is nobody to meet
  // torchrun serves the store from its agent; a rank must not serve a second one on that port.
  bool agent_serves_store = false;
  // How often the launcher started these ranks again: torchrun's count, else Slurm's. torchrun's
  // agents on several machines may count differently, so ranks must not rely on it to meet.
  int64_t restart = 0;
  // What the launcher calls this job, equal on all ranks; empty when nothing says. It stays the
  // same when torchrun restarts its ranks, and is another one when Slurm has requeued the job.
  std::string job = {};
};

// Reads who this rank is and where the ranks meet.
//
//              rank, size                           local             meeting point
//   variables  RANK, WORLD_SIZE                     LOCAL_RANK,       MASTER_ADDR, MASTER_PORT
//                                                   LOCAL_WORLD_SIZE
//   mpirun     OMPI_COMM_WORLD_RANK, _SIZE          _LOCAL_RANK,      on one machine 127.0.0.1,
//                                                   _LOCAL_SIZE       else MASTER_ADDR
//   srun       SLURM_PROCID, SLURM_STEP_NUM_TASKS   SLURM_LOCALID     first host of the step
//
// Under mpirun and srun MASTER_ADDR and MASTER_PORT win where they are set; else the port is one of
// 15000 to 29999, made from the launcher's own number of the job. Slurm's variables count only in a
// step of several tasks: a batch script has some of them, too, and is one rank.
//
// Throws Error(kUsage) naming the variable that is missing or not a number in range.
LaunchEnvironment read_launch_environment();

// The same for work whose ranks meet through files: nothing of the meeting point needs to be set.
LaunchEnvironment read_rank_and_world_size();

}  // namespace keiko::dist
