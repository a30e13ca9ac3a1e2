#include "train/marks.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "base/json_text.h"
#include "base/machine.h"

namespace keiko::train {
namespace {

constexpr const char* kPreempted = "PREEMPTED";
constexpr const char* kFatal = "FATAL";

// Errors that the same start would meet again.
bool is_final(ErrorKind kind) {
  return kind == ErrorKind::kUsage || kind == ErrorKind::kData || kind == ErrorKind::kTooMuchBad;
}

}  // namespace

void leave_mark(Env* env, const std::string& run_folder, const dist::LaunchEnvironment& launch,
                ErrorKind kind, const std::string& message) {
  const bool is_preempted = kind == ErrorKind::kPreempted;
  if (launch.job.empty() || (!is_preempted && !is_final(kind))) return;
  try {
    if (!env->status(run_folder).is_folder) return;  // refused before there was one
    const std::string path = run_folder + "/" + (is_preempted ? kPreempted : kFatal);
    if (env->status(path).exists) return;  // the first rank to say it knows why
    const std::string mine = fmt::format("{}.{}", path, launch.rank);
    {
      const auto file = env->create(mine);
      file->append(json_text(nlohmann::ordered_json{{"job", launch.job},
                                                    {"rank", launch.rank},
                                                    {"kind", int(kind)},
                                                    {"exit_code", exit_code(kind)},
                                                    {"time", utc_now()},
                                                    {"message", message}},
                             2) +
                   "\n");
      file->sync();
    }
    env->rename(mine, path);
    env->sync_folder(run_folder);
  } catch (const std::exception& e) {
    spdlog::warn("{}: no mark could be left for restarted processes: {}", run_folder, e.what());
  }
}

void heed_marks(Env* env, const std::string& run_folder, const dist::LaunchEnvironment& launch) {
  for (const char* name : {kPreempted, kFatal}) {
    const std::string path = run_folder + "/" + name;
    // Others than rank 0 look only where it may be theirs: rank 0 may be removing it right now.
    if ((launch.rank != 0 && launch.restart == 0) || !env->status(path).exists) continue;
    nlohmann::json mark;
    try {
      mark = nlohmann::json::parse(read_text(env, path), nullptr, false);
    } catch (const Error&) {
      if (launch.rank == 0) env->remove(path);  // unreadable; else rank 0 removed it meanwhile
      continue;
    }
    const bool is_ours =
        launch.restart > 0 && mark.is_object() && mark.value("job", std::string()) == launch.job;
    if (is_ours)
      throw Error(ErrorKind(mark.value("kind", int(ErrorKind::kInternal))),
                  fmt::format("not started again in this job: rank {} ended with {} ({})",
                              mark.value("rank", int64_t{0}), mark.value("exit_code", 1),
                              mark.value("message", std::string())));
    if (launch.rank == 0) env->remove(path);
  }
}

}  // namespace keiko::train
