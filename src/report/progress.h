// Progress of long work: a bar on a terminal, plain lines now and then otherwise.

#pragma once
#include <cstdint>
#include <string>

namespace keiko::report {

// "3 h 12 min", "45 s"
std::string duration_text(double seconds);
// "1,234,567"
std::string count_text(int64_t value);
// "1.9 GB" (powers of ten)
std::string bytes_text(double bytes);

// Not thread-safe. Writes to stderr.
class Progress {
 public:
  // `what`: "index", "synth". On a terminal one line is redrawn at most five times a second;
  // otherwise a line comes every `plain_every_s` seconds.
  explicit Progress(std::string what, double plain_every_s = 10);
  // `note` follows the figures, such as "412 clips/s".
  void update(int64_t done, int64_t total, const std::string& note = "");
  // Ends the bar with a final line.
  void finish(const std::string& summary);

  // True when stderr is a terminal.
  static bool on_terminal();

 private:
  std::string what_;
  double plain_every_s_;
  double started_s_, last_s_;
  int64_t first_done_ = -1;
  bool drew_ = false;
};

}  // namespace keiko::report
