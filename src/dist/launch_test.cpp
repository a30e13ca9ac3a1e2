#include "dist/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "base/error.h"

namespace keiko::dist {
namespace {

using Variables = std::map<std::string, std::string>;

// Exactly these launcher's variables are set, whatever this test itself runs under.
class Launch : public ::testing::Test {
 protected:
  void TearDown() override { clear(); }

  void set(const Variables& variables) {
    clear();
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  }

  LaunchEnvironment read(const Variables& variables) {
    set(variables);
    return read_launch_environment();
  }

  std::string refusal(const Variables& variables) {
    try {
      read(variables);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return e.what();
    }
    return "no error";
  }

 private:
  static void clear() {
    for (const char* prefix :
         {"RANK=", "WORLD_SIZE=", "LOCAL_", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMIX_", "SLURM_"})
      for (std::string name = first_with(prefix); !name.empty(); name = first_with(prefix))
        ::unsetenv(name.c_str());
  }

  static std::string first_with(std::string_view prefix) {
    for (char** entry = environ; *entry != nullptr; ++entry)
      if (const std::string_view text = *entry; text.starts_with(prefix))
        return std::string(text.substr(0, text.find('=')));
    return "";
  }
};

// What srun of Slurm 22.05 gives the third of three tasks on two machines.
Variables srun_task() {
  return {{"SLURM_JOB_ID", "4711"},
          {"SLURM_STEP_ID", "0"},
          {"SLURM_STEP_NUM_TASKS", "3"},
          {"SLURM_NTASKS", "3"},
          {"SLURM_PROCID", "2"},
          {"SLURM_LOCALID", "0"},
          {"SLURM_NODEID", "1"},
          {"SLURM_STEP_TASKS_PER_NODE", "2,1"},
          {"SLURM_TASKS_PER_NODE", "2,1"},
          {"SLURM_JOB_NODELIST", "node[07-09]"},
          {"SLURM_STEP_NODELIST", "node[08-09]"},
          {"SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"}};
}

// What mpirun of Open MPI 4.1 gives the second of two ranks on one machine.
Variables mpirun_task() {
  return {{"OMPI_COMM_WORLD_SIZE", "2"},
          {"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
          {"PMIX_NAMESPACE", "3141599233"}};
}

Variables changed(Variables variables, const Variables& changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

TEST_F(Launch, WithoutALauncherThisIsARunOfOneRank) {
  const LaunchEnvironment e = read({});
  EXPECT_EQ(e.world_size, 1);
  EXPECT_EQ(e.rank, 0);
  EXPECT_EQ(e.restart, 0);
  EXPECT_EQ(e.job, "");
}

TEST_F(Launch, ReadsTheVariablesAndNamesWhatIsWrong) {
  Variables v{{"RANK", "1"}};
  EXPECT_EQ(refusal(v).rfind("WORLD_SIZE is not set", 0), 0u) << refusal(v);
  v["WORLD_SIZE"] = "2";
  EXPECT_EQ(refusal(v).rfind("MASTER_ADDR is not set", 0), 0u) << refusal(v);
  v["MASTER_ADDR"] = "localhost";
  EXPECT_EQ(refusal(v).rfind("MASTER_PORT is not set", 0), 0u) << refusal(v);
  v["MASTER_PORT"] = "port";
  EXPECT_EQ(refusal(v), "MASTER_PORT = port is not a number from 1 to 65535");
  v["MASTER_PORT"] = "29500";
  EXPECT_EQ(read(v).rank, 1);
  EXPECT_EQ(read(v).master_addr, "localhost");
  EXPECT_EQ(read(v).master_port, 29500);
  EXPECT_EQ(read(v).local_world_size, 2);
  v["RANK"] = "2";
  EXPECT_EQ(refusal(v), "RANK = 2 is not a number from 0 to 1");
}

TEST_F(Launch, TorchrunsRestartsKeepTheJobsName) {
  Variables v{{"RANK", "0"},
              {"WORLD_SIZE", "2"},
              {"MASTER_ADDR", "localhost"},
              {"MASTER_PORT", "29500"},
              {"TORCHELASTIC_USE_AGENT_STORE", "True"},
              {"TORCHELASTIC_RESTART_COUNT", "3"},
              {"TORCHELASTIC_RUN_ID", "none"}};
  EXPECT_TRUE(read(v).agent_serves_store);
  EXPECT_EQ(read(v).restart, 3);
  EXPECT_EQ(read(v).job, "") << "torchrun says `none` when it was given no name";
  v["TORCHELASTIC_RUN_ID"] = "night";
  v["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_EQ(read(v).job, "torchrun night");
  EXPECT_FALSE(read(v).agent_serves_store);
}

TEST_F(Launch, ATaskOfSrunIsARank) {
  const LaunchEnvironment e = read(srun_task());
  EXPECT_EQ(e.rank, 2);
  EXPECT_EQ(e.world_size, 3);
  EXPECT_EQ(e.local_rank, 0);
  EXPECT_EQ(e.local_world_size, 1);
  EXPECT_EQ(e.master_addr, "node08") << "rank 0 is on the step's first machine, not on the job's";
  EXPECT_EQ(e.master_port, 15000 + 4711);
  EXPECT_EQ(e.job, "slurm 4711");
  EXPECT_NE(read(changed(srun_task(), {{"SLURM_STEP_ID", "1"}})).master_port, e.master_port)
      << "steps side by side would meet each other";
}

TEST_F(Launch, ARequeuedSlurmJobIsAnotherStartOfIt) {
  const LaunchEnvironment e = read(changed(srun_task(), {{"SLURM_RESTART_COUNT", "2"}}));
  EXPECT_EQ(e.restart, 2);
  EXPECT_EQ(e.job, "slurm 4711, requeue 2");
}

// A batch script, the shell of salloc (an interactive step of one task), and srun --ntasks 1.
TEST_F(Launch, SlurmsVariablesOutsideOfAStepOfSeveralTasksMakeNoRanks) {
  Variables batch = srun_task();
  batch.erase("SLURM_STEP_ID");
  batch.erase("SLURM_STEP_NUM_TASKS");
  EXPECT_EQ(read(batch).world_size, 1);
  EXPECT_EQ(read(batch).job, "slurm 4711");
  EXPECT_EQ(read(changed(srun_task(), {{"SLURM_STEP_NUM_TASKS", "1"}})).world_size, 1);
}

TEST_F(Launch, ReadsSlurmsHostLists) {
  const Variables hosts{{"a1,b2", "a1"},        {"node[07-09,12],x", "node07"},
                        {"node[3,7]", "node3"}, {"r[1-2]c[01-16]", "r1c01"},
                        {"n[5]-ib", "n5-ib"},   {"alone", "alone"}};
  for (const auto& [list, first] : hosts)
    EXPECT_EQ(read(changed(srun_task(), {{"SLURM_STEP_NODELIST", list}})).master_addr, first)
        << list;
  EXPECT_EQ(refusal(changed(srun_task(), {{"SLURM_STEP_NODELIST", ",x"}}))
                .rfind("SLURM_STEP_NODELIST = ,x names no host", 0),
            0u);
  Variables old = srun_task();
  old.erase("SLURM_STEP_NODELIST");
  EXPECT_EQ(read(old).master_addr, "node07");
}

TEST_F(Launch, CountsTheTasksOfItsOwnMachine) {
  const auto local = [&](const char* text, const char* node) {
    return read(changed(srun_task(), {{"SLURM_STEP_TASKS_PER_NODE", text},
                                      {"SLURM_TASKS_PER_NODE", ""},
                                      {"SLURM_NODEID", node}}))
        .local_world_size;
  };
  EXPECT_EQ(local("2(x3),1", "0"), 2);
  EXPECT_EQ(local("2(x3),1", "2"), 2);
  EXPECT_EQ(local("2(x3),1", "3"), 1);
  EXPECT_EQ(local("3", "0"), 3);
  // Unreadable: all ranks are taken to share the machine.
  for (const char* text : {"2(x3),1", "two", "2(x3", "0", "2(x0)", ",", ""})
    EXPECT_EQ(local(text, "4"), 3) << text;
}

TEST_F(Launch, ATaskOfMpirunIsARank) {
  const LaunchEnvironment e = read(mpirun_task());
  EXPECT_EQ(e.rank, 1);
  EXPECT_EQ(e.world_size, 2);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.local_world_size, 2);
  EXPECT_EQ(e.master_addr, "127.0.0.1");
  EXPECT_GE(e.master_port, 15000);
  EXPECT_LT(e.master_port, 30000);
  EXPECT_EQ(e.job, "mpirun 3141599233");
  EXPECT_NE(read(changed(mpirun_task(), {{"PMIX_NAMESPACE", "3141599234"}})).master_port,
            e.master_port);
}

TEST_F(Launch, MpirunOnSeveralMachinesMustBeToldWhereRank0Is) {
  Variables v = changed(mpirun_task(), {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}});
  EXPECT_EQ(refusal(v).rfind("MASTER_ADDR is not set", 0), 0u) << refusal(v);
  set(v);
  EXPECT_EQ(read_rank_and_world_size().rank, 1) << "who meets through files needs no address";
  v["MASTER_ADDR"] = "node08";
  EXPECT_EQ(read(v).master_addr, "node08");
}

TEST_F(Launch, TheVariablesWinOverMpirunAndMpirunOverSlurm) {
  Variables v = srun_task();
  v.merge(mpirun_task());
  EXPECT_EQ(read(v).world_size, 2) << "mpirun's ranks inherit the step that carries its daemons";
  v.merge(Variables{
      {"RANK", "4"}, {"WORLD_SIZE", "5"}, {"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "29500"}});
  EXPECT_EQ(read(v).rank, 4);
}

TEST_F(Launch, TheMeetingPointMayBeGivenUnderEveryLauncher) {
  const Variables point{{"MASTER_ADDR", "node99"}, {"MASTER_PORT", "4000"}};
  for (const Variables& task : {srun_task(), mpirun_task()}) {
    const LaunchEnvironment e = read(changed(task, point));
    EXPECT_EQ(e.master_addr, "node99");
    EXPECT_EQ(e.master_port, 4000);
  }
}

}  // namespace
}  // namespace keiko::dist
