// The program's log: one event a line, to stderr and, once a run folder exists, to its log.txt.

#pragma once
#include <spdlog/spdlog.h>

#include <string>

namespace keiko {

// Sends log lines to stderr as they are. `quiet` keeps warnings
// only. Not thread-safe; call once from main. Logging itself may be called from any thread.
void start_log(bool quiet);

// Writes a line to the log file only; without one, nowhere. For what a terminal shows otherwise.
void log_quietly(const std::string& line);

// Adds `path` (appended to, created if missing) as a second sink. Throws Error(kIo).
void log_to_file(const std::string& path);

}  // namespace keiko
