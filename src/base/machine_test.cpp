// What the process is told of its machine, against what the system's own commands say.

#include "base/machine.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdio>
#include <ctime>
#include <vector>

namespace keiko {
namespace {

// The first line that `command` prints, without its end.
std::string output_of(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  char line[1024] = {};
  if (std::fgets(line, sizeof(line), pipe) == nullptr) line[0] = 0;
  ::pclose(pipe);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

TEST(Machine, CoresAreThoseOfTheAffinityMask) {
  EXPECT_EQ(std::to_string(usable_cores()), output_of("env -u OMP_NUM_THREADS nproc"));
  cpu_set_t all, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++core)
    if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(usable_cores(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof(all), &all), 0);
}

TEST(Machine, NamesAreTheSystemsOwn) {
  EXPECT_EQ(host_name(), output_of("uname -n"));
  const std::string name =
      output_of("sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1");
  EXPECT_EQ(processor_name(), name.empty() ? "unknown" : name);
  EXPECT_EQ(processor_has_fast_bf16(),
            !output_of("grep -m 1 -ow 'avx512_bf16\\|amx_bf16' /proc/cpuinfo").empty());
}

TEST(Machine, ResidentMemoryGrowsWithWhatIsTouched) {
  constexpr size_t kBytes = 64 << 20;
  const int64_t before = resident_bytes();
  EXPECT_GT(before, 1 << 20);
  const std::vector<char> touched(kBytes, 1);
  EXPECT_GE(resident_bytes() - before, int64_t(kBytes * 9 / 10));
  EXPECT_EQ(touched[kBytes / 2], 1);
}

TEST(Machine, TheClockGoesForwardInSeconds) {
  const double start = monotonic_s();
  const timespec pause = {0, 50'000'000};
  ::nanosleep(&pause, nullptr);
  const double passed = monotonic_s() - start;
  EXPECT_GE(passed, 0.05);
  EXPECT_LT(passed, 5);
}

TEST(Machine, TheTimeOfDayIsThatOfTheSystemInUtc) {
  const std::string before = output_of("date -u +%Y-%m-%dT%H:%M:%SZ"), now = utc_now(),
                    after = output_of("date -u +%Y-%m-%dT%H:%M:%SZ");
  EXPECT_LE(before, now);
  EXPECT_LE(now, after);
}

}  // namespace
}  // namespace keiko
