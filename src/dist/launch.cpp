#include "dist/launch.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/hash.h"

namespace keiko::dist {
namespace {

// Empty counts as absent: job scripts often pass on variables that nobody set.
std::string_view value_of(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? std::string_view() : std::string_view(text);
}

bool is_set(const char* name) { return !value_of(name).empty(); }

bool parse_number(std::string_view text, int64_t low, int64_t high, int64_t& value) {
  const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && stop == text.data() + text.size() && value >= low && value <= high;
}

int64_t read_number(const char* name, int64_t low, int64_t high) {
  if (!is_set(name))
    fail(ErrorKind::kUsage,
         "{} is not set, but other variables of a distributed run are; a launcher sets RANK, "
         "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
         name);
  int64_t value = 0;
  if (!parse_number(value_of(name), low, high, value))
    fail(ErrorKind::kUsage, "{} = {} is not a number from {} to {}", name, value_of(name), low,
         high);
  return value;
}

int64_t read_number_or(const char* name, int64_t low, int64_t high, int64_t otherwise) {
  return is_set(name) ? read_number(name, low, high) : otherwise;
}

constexpr int64_t kMostRanks = 1 << 20, kMostLocalRanks = 1 << 16;

enum class Launcher { kNone, kVariables, kMpirun, kSrun };

// mpirun before Slurm: inside a Slurm job it starts its daemons by srun, and the ranks inherit the
// daemons' step.
Launcher launcher() {
  if (is_set("RANK") || is_set("WORLD_SIZE")) return Launcher::kVariables;
  if (is_set("OMPI_COMM_WORLD_SIZE")) return Launcher::kMpirun;
  if (is_set("SLURM_STEP_ID") && is_set("SLURM_PROCID") &&
      read_number_or("SLURM_STEP_NUM_TASKS", 1, kMostRanks, 1) > 1)
    return Launcher::kSrun;
  return Launcher::kNone;
}

void read_variables(LaunchEnvironment& e) {
  e.world_size = read_number("WORLD_SIZE", 1, kMostRanks);
  e.rank = read_number("RANK", 0, e.world_size - 1);
  e.local_rank = read_number_or("LOCAL_RANK", 0, kMostLocalRanks, 0);
  // Without it, all ranks are taken to share this machine: too few threads rather than too many.
  e.local_world_size = read_number_or("LOCAL_WORLD_SIZE", 1, kMostLocalRanks, e.world_size);
}

void read_mpirun(LaunchEnvironment& e) {
  e.world_size = read_number("OMPI_COMM_WORLD_SIZE", 1, kMostRanks);
  e.rank = read_number("OMPI_COMM_WORLD_RANK", 0, e.world_size - 1);
  e.local_rank = read_number_or("OMPI_COMM_WORLD_LOCAL_RANK", 0, kMostLocalRanks, 0);
  e.local_world_size =
      read_number_or("OMPI_COMM_WORLD_LOCAL_SIZE", 1, kMostLocalRanks, e.world_size);
}

// How many tasks the machine number `node` has, from Slurm's short form "2(x3),1": three machines
// with two tasks each, then one with one. 0 when the text is not of this form, or is too short.
int64_t tasks_of_node(std::string_view text, int64_t node) {
  while (!text.empty()) {
    std::string_view entry = text.substr(0, text.find(','));
    text.remove_prefix(std::min(entry.size() + 1, text.size()));
    int64_t machines = 1, tasks = 0;
    if (const size_t bracket = entry.find("(x"); bracket != entry.npos) {
      std::string_view times = entry.substr(bracket + 2);
      if (!times.ends_with(')')) return 0;
      times.remove_suffix(1);
      if (!parse_number(times, 1, kMostRanks, machines)) return 0;
      entry = entry.substr(0, bracket);
    }
    if (!parse_number(entry, 1, kMostLocalRanks, tasks)) return 0;
    if (node < machines) return tasks;
    node -= machines;
  }
  return 0;
}

void read_srun(LaunchEnvironment& e) {
  e.world_size = read_number("SLURM_STEP_NUM_TASKS", 1, kMostRanks);
  e.rank = read_number("SLURM_PROCID", 0, e.world_size - 1);
  e.local_rank = read_number_or("SLURM_LOCALID", 0, kMostLocalRanks, 0);
  // SLURM_NTASKS_PER_NODE repeats what sbatch was asked, which srun may have been told otherwise.
  const int64_t node = read_number_or("SLURM_NODEID", 0, kMostRanks, 0);
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
    e.local_world_size = tasks_of_node(value_of(name), node);
    if (e.local_world_size > 0) return;
  }
  e.local_world_size = read_number_or("SLURM_NTASKS_PER_NODE", 1, kMostLocalRanks, e.world_size);
}

// The first of Slurm's host list: "a1" of "a1,b", "node07" of "node[07-09,12],x", "r1c01" of
// "r[1-2]c[01-16]".
std::string first_host(std::string_view list) {
  std::string host;
  for (size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    if (list[i] != '[') {
      host += list[i];
      continue;
    }
    const size_t close = std::min(list.find(']', i), list.size());
    const std::string_view inside = list.substr(i + 1, close - i - 1);
    host += inside.substr(0, inside.find_first_of(",-"));
    i = close;
  }
  return host;
}

// One of the ports below Linux's own (32768 and up, /proc/sys/net/ipv4/ip_local_port_range), and
// above those that services like to have.
int port_of(uint64_t number) { return int(15000 + number % 15000); }

void meet_by_variables(LaunchEnvironment& e) {
  if (!is_set("MASTER_ADDR")) read_number("MASTER_ADDR", 0, 0);  // fails, naming it
  e.master_port = int(read_number("MASTER_PORT", 1, 65535));
}

void meet_under_mpirun(LaunchEnvironment& e) {
  if (!is_set("MASTER_ADDR") && e.local_world_size < e.world_size)
    fail(ErrorKind::kUsage,
         "MASTER_ADDR is not set, and mpirun does not tell on which of the machines rank 0 is; "
         "give its name: mpirun -x MASTER_ADDR=HOST ...");
  // PMIx's name of the job: equal on its ranks, another one for every mpirun.
  e.master_port = port_of(xxh3(value_of("PMIX_NAMESPACE")));
}

void meet_under_srun(LaunchEnvironment& e) {
  // The step's list, not the job's: a step may leave the job's first hosts out. And not
  // SLURM_LAUNCH_NODE_IPADDR, which is where srun was typed.
  const char* list = is_set("SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
  if (!is_set("MASTER_ADDR") && e.local_world_size < e.world_size) {
    e.master_addr = first_host(value_of(list));
    if (e.master_addr.empty())
      fail(ErrorKind::kUsage,
           "{} = {} names no host, so rank 0 cannot be found; set MASTER_ADDR to its machine", list,
           value_of(list));
  }
  // Steps of one job may run side by side.
  e.master_port = port_of(uint64_t(read_number("SLURM_JOB_ID", 0, INT64_MAX)) +
                          997 * uint64_t(read_number("SLURM_STEP_ID", 0, UINT32_MAX)));
}

std::string name_of_job() {
  std::string job;
  const auto add = [&job](std::string_view kind, std::string_view id) {
    if (!id.empty()) job += fmt::format("{}{} {}", job.empty() ? "" : ", ", kind, id);
  };
  // A requeued Slurm job keeps its number, but it is another start of it, by the scheduler's will.
  add("slurm", value_of("SLURM_JOB_ID"));
  if (is_set("SLURM_JOB_ID")) add("requeue", value_of("SLURM_RESTART_COUNT"));
  // "none" is what torchrun says when --rdzv-id was not given.
  if (const auto id = value_of("TORCHELASTIC_RUN_ID"); id != "none") add("torchrun", id);
  if (is_set("OMPI_COMM_WORLD_SIZE")) add("mpirun", value_of("PMIX_NAMESPACE"));
  return job;
}

}  // namespace

LaunchEnvironment read_rank_and_world_size() {
  LaunchEnvironment e;
  switch (launcher()) {
    case Launcher::kNone:
      break;
    case Launcher::kVariables:
      read_variables(e);
      break;
    case Launcher::kMpirun:
      read_mpirun(e);
      break;
    case Launcher::kSrun:
      read_srun(e);
      break;
  }
  e.restart = read_number_or("TORCHELASTIC_RESTART_COUNT", 0, 1 << 30,
                             read_number_or("SLURM_RESTART_COUNT", 0, 1 << 30, 0));
  e.job = name_of_job();
  return e;
}

LaunchEnvironment read_launch_environment() {
  LaunchEnvironment e = read_rank_and_world_size();
  if (e.world_size == 1) return e;
  switch (launcher()) {
    case Launcher::kNone:
      break;
    case Launcher::kVariables:
      meet_by_variables(e);
      break;
    case Launcher::kMpirun:
      meet_under_mpirun(e);
      break;
    case Launcher::kSrun:
      meet_under_srun(e);
      break;
  }
  if (is_set("MASTER_ADDR")) e.master_addr = value_of("MASTER_ADDR");
  if (is_set("MASTER_PORT")) e.master_port = int(read_number("MASTER_PORT", 1, 65535));
  e.agent_serves_store = value_of("TORCHELASTIC_USE_AGENT_STORE") == "True";
  return e;
}

}  // namespace keiko::dist
