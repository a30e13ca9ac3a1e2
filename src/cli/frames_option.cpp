#include "cli/frames_option.h"

#include <charconv>
#include <sstream>

#include "base/error.h"

namespace keiko::cli {

std::vector<int64_t> parse_frames(const std::string& text, int64_t count) {
  std::vector<int64_t> frames;
  if (text == "all") {
    for (int64_t i = 0; i < count; ++i) frames.push_back(i);
    return frames;
  }
  auto number = [&](const std::string& part) {
    int64_t value = 0;
    const auto [end, code] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (part.empty() || code != std::errc() || end != part.data() + part.size())
      fail(ErrorKind::kUsage, "--frames {}: `{}` is not a frame number; write all, 0,4,8 or 10-19",
           text, part);
    if (value < 0 || value >= count)
      fail(ErrorKind::kUsage, "--frames {}: frame {} is outside the video's {} frames", text, value,
           count);
    return value;
  };
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t dash = part.find('-', 1);
    if (dash == std::string::npos) {
      frames.push_back(number(part));
      continue;
    }
    const int64_t last = number(part.substr(dash + 1));
    for (int64_t i = number(part.substr(0, dash)); i <= last; ++i) frames.push_back(i);
  }
  if (frames.empty())
    fail(ErrorKind::kUsage, "--frames {}: no frame; write all, 0,4,8 or 10-19", text);
  return frames;
}

}  // namespace keiko::cli
