// Damages videos in many ways and tries each: success or an Error, never a crash, a hang, a leak or
// unbounded memory.
//
//   mutate_videos FOLDER --count N [--first K] [--seed S] [--largest BYTES] [--seconds T]
//                 [--memory MIB] [--keep DIR]
//
// Mutant i is a fixed function of (seed, i, the files of FOLDER by name). Each runs in a child
// process that takes the next ones too until one of them ends it; the parent then notes which, and
// goes on behind it. What failed is written to the folder of --keep.

#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <map>

#include "base/machine.h"
#include "fuzz/memory_file.h"
#include "fuzz/mutations.h"
#include "fuzz/video_trial.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/lsan_interface.h>
#define KEIKO_FINDS_LEAKS 1
#endif
#endif

namespace keiko::fuzz {
namespace {

struct Options {
  std::vector<std::string> folders;
  int64_t count = 1000, first = 0;
  uint64_t seed = 1;
  int64_t largest = 300'000;  // bytes of a video to start from: small ones are quick
  int64_t seconds = 30;       // of processor time that one mutant may take
  int64_t memory_mib = 1024;  // that one mutant may need
  std::string keep;
};

// What the child tells the parent, in memory that both see.
struct Progress {
  int64_t current = 0;  // the mutant being tried
  int64_t tried = 0, scanned = 0, clips = 0, refused_clips = 0, frames = 0;
  int64_t most_memory_mib = 0, most_memory_mutant = 0;
  double longest_s = 0;
  int64_t longest_mutant = 0;
};

struct Source {
  std::string name, content;
};

std::vector<Source> read_sources(const Options& options) {
  std::vector<Source> sources;
  for (const std::string& folder : options.folders)
    for (const std::string& name : default_env()->list(folder)) {
      const std::string path = folder + "/" + name;
      const FileStatus status = default_env()->status(path);
      if (status.is_folder || status.size == 0 || status.size > options.largest) continue;
      sources.push_back({name, read_text(default_env(), path)});
    }
  if (sources.empty())
    fail(ErrorKind::kUsage, "no file of at most {} bytes in {}", options.largest,
         options.folders[0]);
  return sources;
}

std::string mutant(const std::vector<Source>& sources, const Options& options, int64_t index,
                   std::string* what) {
  const Source& whole = sources[size_t(index) % sources.size()];
  const Source& other = sources[size_t(index) / sources.size() % sources.size()];
  if (what != nullptr) *what = whole.name + ": ";
  std::string names;
  std::string bytes =
      mutate(whole.content, other.content, options.seed * 1'000'000'007 + uint64_t(index), &names);
  if (what != nullptr) *what += names;
  return bytes;
}

// Peak resident memory since the last call, in MiB.
int64_t take_peak_mib() {
  const std::string status = [] {
    std::string text(4096, '\0');
    FILE* file = std::fopen("/proc/self/status", "r");
    text.resize(std::fread(text.data(), 1, text.size(), file));
    std::fclose(file);
    return text;
  }();
  const size_t at = status.find("VmHWM:");
  const int64_t peak = at == std::string::npos ? 0 : std::atoll(&status[at + 6]) / 1024;
  if (FILE* file = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", file);  // proc(5): resets the peak to what is resident now
    std::fclose(file);
  }
  return peak;
}

// Ends the process by SIGPROF or SIGALRM; 0 takes the limits back.
void limit_time(int64_t seconds) {
  itimerval timer{};
  timer.it_value.tv_sec = seconds;
  ::setitimer(ITIMER_PROF, &timer, nullptr);
  ::alarm(unsigned(seconds * 20));
}

double processor_s() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

constexpr int kLeakExit = 77, kMemoryExit = 78, kExceptionExit = 79;

// Tries mutants until `end`, a leak, or its own end by a signal.
[[noreturn]] void work(const std::vector<Source>& sources, const Options& options, int64_t end,
                       Progress& progress) {
  MemoryFile file;
  take_peak_mib();
  for (; progress.current < end; ++progress.current) {
    const int64_t index = progress.current;
    const std::string bytes = mutant(sources, options, index, nullptr);
    file.write({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    // Processor time, because a busy machine is no hang; and the clock, for what only waits.
    limit_time(options.seconds);
    const double start = processor_s();
    TrialOutcome outcome;
    try {
      outcome = try_video(file.path(), uint64_t(index), 3, 300);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(kExceptionExit);
    }
    const double took = processor_s() - start;
    limit_time(0);
    ++progress.tried;
    progress.scanned += outcome.scanned;
    progress.clips += outcome.clips;
    progress.refused_clips += outcome.refused_clips;
    progress.frames += outcome.frames;
    if (took > progress.longest_s) {
      progress.longest_s = took;
      progress.longest_mutant = index;
    }
    const int64_t peak = take_peak_mib();
    if (peak > progress.most_memory_mib) {
      progress.most_memory_mib = peak;
      progress.most_memory_mutant = index;
    }
    if (peak > options.memory_mib) ::_exit(kMemoryExit);
#ifdef KEIKO_FINDS_LEAKS
    if (index % 20 == 19 && __lsan_do_recoverable_leak_check() != 0) ::_exit(kLeakExit);
#endif
  }
  ::_exit(0);
}

std::string describe(int status) {
  if (WIFSIGNALED(status))
    return WTERMSIG(status) == SIGPROF   ? "hang: computing"
           : WTERMSIG(status) == SIGALRM ? "hang: waiting"
                                         : fmt::format("signal {}", WTERMSIG(status));
  switch (WEXITSTATUS(status)) {
    case kLeakExit:
      return "leak (in this mutant or one of the 19 before it)";
    case kMemoryExit:
      return "memory";
    case kExceptionExit:
      return "another exception than Error";
    default:
      return fmt::format("exit code {} (a sanitizer's report)", WEXITSTATUS(status));
  }
}

int run(const Options& options) {
  const std::vector<Source> sources = read_sources(options);
  auto* progress = static_cast<Progress*>(
      ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  require(progress != MAP_FAILED, "memory can be shared with a child");
  *progress = Progress{};
  progress->current = options.first;
  const int64_t end = options.first + options.count;
  std::map<std::string, int64_t> findings;
  const double start = monotonic_s();
  while (progress->current < end) {
    // A fresh child now and then, so that what one mutant leaves in memory does not count for all.
    const int64_t stop = std::min(end, progress->current + 500);
    const pid_t child = ::fork();
    if (child == 0) work(sources, options, stop, *progress);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    std::string what;
    const std::string bytes = mutant(sources, options, progress->current, &what);
    std::printf("finding: mutant %ld (%s): %s\n", long(progress->current), what.c_str(),
                describe(status).c_str());
    std::fflush(stdout);
    if (!options.keep.empty()) {
      default_env()->make_folder(options.keep);
      publish(default_env(), fmt::format("{}/mutant-{}", options.keep, progress->current), bytes);
    }
    ++findings[describe(status)];
    ++progress->current;
  }
  std::printf(
      "%ld mutants of %zu videos in %.0f s: %ld scanned, %ld clips decoded, %ld refused, %ld "
      "frames "
      "indexed; most memory %ld MiB (mutant %ld), longest %.1f s (mutant %ld)\n",
      long(options.count), sources.size(), monotonic_s() - start, long(progress->scanned),
      long(progress->clips), long(progress->refused_clips), long(progress->frames),
      long(progress->most_memory_mib), long(progress->most_memory_mutant), progress->longest_s,
      long(progress->longest_mutant));
  for (const auto& [kind, count] : findings) std::printf("%ld x %s\n", long(count), kind.c_str());
  std::printf("%zu kinds of findings\n", findings.size());
  return findings.empty() ? 0 : 1;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      options.folders.push_back(word);
      continue;
    }
    if (i + 1 == argc) fail(ErrorKind::kUsage, "{} needs a value", word);
    const std::string value = argv[++i];
    if (word == "--count")
      options.count = std::stoll(value);
    else if (word == "--first")
      options.first = std::stoll(value);
    else if (word == "--seed")
      options.seed = std::stoull(value);
    else if (word == "--largest")
      options.largest = std::stoll(value);
    else if (word == "--seconds")
      options.seconds = std::stoll(value);
    else if (word == "--memory")
      options.memory_mib = std::stoll(value);
    else if (word == "--keep")
      options.keep = value;
    else
      fail(ErrorKind::kUsage, "{} is not an option", word);
  }
  if (options.folders.empty()) fail(ErrorKind::kUsage, "name a folder of videos");
  return options;
}

}  // namespace
}  // namespace keiko::fuzz

int main(int argc, char** argv) {
  try {
    return keiko::fuzz::run(keiko::fuzz::parse(argc, argv));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "mutate_videos: %s\n", e.what());
    return 2;
  }
}
