#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "base/error.h"

namespace keiko {
namespace {
spdlog::sink_ptr& file_sink() {
  static spdlog::sink_ptr sink;
  return sink;
}
}  // namespace

void log_quietly(const std::string& line) {
  if (!file_sink()) return;
  file_sink()->log(spdlog::details::log_msg("keiko", spdlog::level::info, line));
  file_sink()->flush();
}

void start_log(bool quiet) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>("keiko", sink);
  sink->set_pattern("%v");
  logger->set_level(quiet ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(logger);
}

void log_to_file(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
    auto logger = spdlog::default_logger();
    std::erase(logger->sinks(), file_sink());  // of an earlier start in this process
    logger->sinks().push_back(sink);
    file_sink() = sink;
    logger->flush_on(spdlog::level::info);
  } catch (const spdlog::spdlog_ex& e) {
    fail(ErrorKind::kIo, "{}: cannot open the log: {}", path, e.what());
  }
}

}  // namespace keiko
