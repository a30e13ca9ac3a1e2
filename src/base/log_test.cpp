#include "base/log.h"

#include <gtest/gtest.h>

#include <regex>

#include "base/env.h"
#include "base/error.h"
#include "base/temp_folder.h"

namespace keiko {
namespace {

// Each test logs in a process of its own: the log is the process's, and stderr must be caught.
template <class Work>
void in_child(Work work) {
  EXPECT_EXIT(
      {
        work();
        std::exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST(LogDeathTest, LinesGoToStderrAsTheyAre) {
  EXPECT_EXIT(
      {
        start_log(false);
        spdlog::info("step  1200  loss 0.6183");
        std::exit(0);
      },
      testing::ExitedWithCode(0), "^step  1200  loss 0\\.6183\n$");
}

TEST(LogDeathTest, QuietKeepsWarningsOnly) {
  EXPECT_EXIT(
      {
        start_log(true);
        spdlog::info("not shown");
        spdlog::warn("shown");
        std::exit(0);
      },
      testing::ExitedWithCode(0), "^shown\n$");
}

TEST(LogDeathTest, TheFileHoldsEveryLineWithItsTimeAndLevelAndIsAppendedTo) {
  const TempFolder folder;
  const std::string path = folder.path() + "/log.txt";
  publish(default_env(), path, "before\n");
  in_child([&] {
    start_log(false);
    log_quietly("nowhere yet");
    log_to_file(path);
    spdlog::warn("one");
    log_quietly("for the file alone");
  });
  const std::string text = read_text(default_env(), path);
  const std::string when = "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}";
  EXPECT_TRUE(std::regex_match(
      text, std::regex("before\n" + when + " warning one\n" + when + " info for the file alone\n")))
      << text;
}

TEST(LogDeathTest, AFileThatCannotBeOpenedIsNamed) {
  in_child([] {
    start_log(false);
    try {
      log_to_file("/proc/none/log.txt");
    } catch (const Error& e) {
      const bool named = std::string(e.what()).find("/proc/none/log.txt") == 0;
      std::exit(e.kind() == ErrorKind::kIo && named ? 0 : 2);
    }
    std::exit(1);
  });
}

}  // namespace
}  // namespace keiko
