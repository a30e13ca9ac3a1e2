// "all", "0,4,8" or "10-19,30": frame numbers as commands take them.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace keiko::cli {

// Presentation indices in the order given. Throws Error(kUsage) naming the part that is no number,
// or a frame outside [0, count).
std::vector<int64_t> parse_frames(const std::string& text, int64_t count);

}  // namespace keiko::cli
