// Finds the videos of a catalogue that the paths of a list name, so that lists of labels or targets
// stand apart from the index.

#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/catalogue.h"

namespace keiko::data {

// Lines of a list whose path is no video of the catalogue.
struct UnmatchedPaths {
  int64_t count = 0;
  static constexpr size_t kMostNamed = 3;
  std::vector<std::string> first;
};

// Finds each of a list's `lines` paths among the catalogue's videos: as an absolute path, relative
// to the list, relative to the catalogue, or, for videos that no line names so, by a file name that
// is unique in both. Calls `give` for each line and each video that it names (the members of a
// pack's shard share its path), not in the order of the lines; a video may be given twice.
// Memory: 32 bytes and a bit for each video.
UnmatchedPaths match_paths(const std::string& list, const Catalogue& catalogue, size_t lines,
                           const std::function<const std::string&(size_t line)>& path_of,
                           const std::function<void(size_t line, uint32_t video)>& give);

}  // namespace keiko::data
