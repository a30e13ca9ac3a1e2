#include "base/fault_env.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/temp_folder.h"

namespace keiko {
namespace {

Env* const disk = default_env();

// Runs `work` in a child process and returns its exit code.
template <class Work>
int run_in_child(Work work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    work();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WEXITSTATUS(status);
}

TEST(FaultEnv, APowerCutAtAnyPointLeavesTheOldContentOrTheNew) {
  FaultEnv counting(disk);
  const TempFolder scratch;
  publish(&counting, scratch.path() + "/x", "new");
  const int64_t operations = counting.operations();
  ASSERT_EQ(operations, 5);  // create, write, fsync, rename, fsync the folder
  for (const double names : {0.0, 0.5, 1.0})
    for (int64_t stop = 1; stop <= operations; ++stop) {
      const TempFolder folder;
      const std::string path = folder.path() + "/x";
      publish(disk, path, "old");
      const int code = run_in_child([&] {
        FaultEnv env(disk);
        env.stop_at(stop, {.names = names});
        publish(&env, path, "new");
      });
      EXPECT_EQ(code, FaultEnv::kPowerCutExit);
      // Nothing needs to be published before the folder's fsync, the last operation; a rename may
      // be.
      const bool may_be_new = names == 1 && stop == operations;
      EXPECT_EQ(read_text(disk, path), may_be_new ? "new" : "old")
          << "stopped at operation " << stop << ", " << names << " of the names survive";
    }
}

TEST(FaultEnv, APowerCutBringsBackWhatWasReplacedOrRemovedUntilTheFolderIsSynced) {
  for (const bool is_synced : {false, true}) {
    const TempFolder folder;
    const std::string at = folder.path();
    publish(disk, at + "/replaced", "old");
    publish(disk, at + "/removed", "old");
    disk->make_folder(at + "/folder");
    publish(disk, at + "/folder/inside", "old");
    EXPECT_EQ(run_in_child([&] {
                FaultEnv env(disk);
                {
                  const auto file = env.create(at + "/beside");
                  file->append("new");
                  file->sync();
                }
                env.rename(at + "/beside", at + "/replaced");
                env.remove(at + "/removed");
                remove_tree(&env, at + "/folder");
                if (is_synced) env.sync_folder(at);
                env.stop_at(env.operations() + 1);
                env.remove(at + "/never");
              }),
              FaultEnv::kPowerCutExit);
    EXPECT_EQ(read_text(disk, at + "/replaced"), is_synced ? "new" : "old");
    EXPECT_NE(disk->status(at + "/removed").exists, is_synced);
    EXPECT_NE(disk->status(at + "/folder").exists, is_synced);
    if (!is_synced) {
      EXPECT_EQ(read_text(disk, at + "/removed"), "old");
      EXPECT_EQ(read_text(disk, at + "/folder/inside"), "old");
    }
  }
}

// Two processes: the first makes a folder and syncs a file in it, the second writes one of its own,
// loses power, and takes the disk with it or not.
TEST(FaultEnv, APowerCutKnowsWhatOtherProcessesSynced) {
  struct Case {
    bool syncs_folder, takes_disk;
    double bytes;
    const char *first, *second;  // what is left of the files; null: the file is gone
  };
  for (const Case& c :
       {Case{false, true, 0, nullptr, nullptr}, Case{true, true, 0, "synced", nullptr},
        Case{true, false, 0, "synced and not", ""}, Case{true, false, 0.5, "synced and not", "sec"},
        Case{true, false, 1, "synced and not", "second"}}) {
    const TempFolder folder;
    const std::string at = folder.path() + "/made";
    FaultDisk shared;
    EXPECT_EQ(run_in_child([&] {
                FaultEnv env(disk, &shared, 0);
                env.make_folder(at);
                const auto file = env.create(at + "/first");
                file->append("synced");
                file->sync();
                file->append(" and not");
                if (c.syncs_folder) {
                  env.sync_folder(at);
                  env.sync_folder(folder.path());
                }
              }),
              0);
    EXPECT_EQ(run_in_child([&] {
                FaultEnv env(disk, &shared, 1);
                env.create(at + "/second")->append("second");
                env.stop_at(3, {.takes_disk = c.takes_disk, .bytes = c.bytes});
                env.remove(at + "/first");
              }),
              FaultEnv::kPowerCutExit);
    for (const auto& [name, wanted] :
         {std::pair("/first", c.first), std::pair("/second", c.second)}) {
      ASSERT_EQ(disk->status(at + name).exists, wanted != nullptr) << name;
      if (wanted) {
        EXPECT_EQ(read_text(disk, at + name), wanted) << name;
      }
    }
    // Who is left finds the disk off, or goes on.
    EXPECT_EQ(run_in_child([&] {
                FaultEnv env(disk, &shared, 0);
                env.make_folder(folder.path() + "/later");
              }),
              c.takes_disk ? FaultEnv::kPowerCutExit : 0);
    EXPECT_NE(disk->status(folder.path() + "/later").exists, c.takes_disk);
  }
}

TEST(FaultEnv, AFullDiskIsAnErrorAndKeepsTheOldContent) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x";
  publish(disk, path, "old");
  for (int64_t from = 1; from <= 3; ++from) {
    FaultEnv env(disk);
    env.fill_disk_at(from);
    EXPECT_THROW(publish(&env, path, "new"), Error);
    EXPECT_EQ(read_text(disk, path), "old");
  }
}

TEST(FaultEnv, AWriteThatFailsLeavesAPartAndNamesTheCause) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x";
  FaultEnv env(disk);
  env.before_each([fails = true](DiskChange::Kind kind, const std::string&) mutable {
    if (kind != DiskChange::kWrite || !std::exchange(fails, false)) return DiskFault{};
    return DiskFault{EIO, 0.5};
  });
  const auto file = env.create(path);
  try {
    file->append("0123456789");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kIo);
    EXPECT_EQ(e.cause(), EIO);
    EXPECT_EQ(e.what(), path + ": cannot write: Input/output error");
  }
  EXPECT_EQ(read_text(disk, path), "01234");
  file->append("x");  // once, not from then on
  EXPECT_EQ(read_text(disk, path), "01234x");
}

}  // namespace
}  // namespace keiko
