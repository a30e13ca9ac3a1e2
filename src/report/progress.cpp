#include "report/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/log.h"
#include "base/machine.h"

namespace keiko::report {

std::string duration_text(double seconds) {
  const int64_t s = int64_t(std::llround(std::max(0.0, seconds)));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} d {:02} h", s / 86400, s % 86400 / 3600);
}

std::string count_text(int64_t value) {
  std::string digits = std::to_string(value < 0 ? -value : value);
  for (int at = int(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), ",");
  return (value < 0 ? "-" : "") + digits;
}

std::string bytes_text(double bytes) {
  const char* units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 5) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} bytes", int64_t(bytes))
                   : fmt::format("{:.1f} {}", bytes, units[unit]);
}

Progress::Progress(std::string what, double plain_every_s)
    : what_(std::move(what)),
      plain_every_s_(plain_every_s),
      started_s_(monotonic_s()),
      last_s_(on_terminal() ? 0 : started_s_) {}

bool Progress::on_terminal() {
  static const bool is_terminal = ::isatty(STDERR_FILENO) == 1;
  return is_terminal;
}

void Progress::update(int64_t done, int64_t total, const std::string& note) {
  const double now = monotonic_s();
  if (first_done_ < 0) first_done_ = std::max<int64_t>(0, done - 1);
  if (now - last_s_ < (on_terminal() ? 0.2 : plain_every_s_)) return;
  last_s_ = now;
  const double share = total > 0 ? double(done) / double(total) : 0;
  const double rate = double(done - first_done_) / std::max(1e-9, now - started_s_);
  const std::string left = rate > 0 ? duration_text(double(total - done) / rate) : "?";
  const std::string figures = fmt::format("{} of {}  {}{}ETA {}", count_text(done),
                                          count_text(total), note, note.empty() ? "" : "  ", left);
  if (!on_terminal()) {
    spdlog::info("{}  {}", what_, figures);
    return;
  }
  constexpr int kWidth = 24;
  const int filled = int(share * kWidth);
  std::string bar;
  for (int i = 0; i < kWidth; ++i) bar += i < filled ? "█" : "░";
  std::fprintf(stderr, "\r\033[K%s %s %3.0f%%  %s", what_.c_str(), bar.c_str(), 100 * share,
               figures.c_str());
  std::fflush(stderr);
  drew_ = true;
}

void Progress::finish(const std::string& summary) {
  if (drew_) std::fputs("\r\033[K", stderr);
  drew_ = false;
  if (!summary.empty()) spdlog::info("{}", summary);
}

}  // namespace keiko::report
