// Labels that stand apart from the index, so that one catalogue serves many label sets.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/catalogue.h"
#include "data/path_match.h"

namespace keiko::data {

struct Labels {
  std::vector<std::string> class_names;  // sorted as those of keiko index
  std::vector<int32_t> of_video;         // class of each video of the catalogue; -1: none
  int64_t lines = 0;                     // of the list that hold a label
  UnmatchedPaths unmatched;              // of them
};

// Reads a list (forms: see find_videos) and finds each path among the catalogue's videos (see
// match_paths). Lines without a label are left out. Memory: 36 bytes a video beside the list
// itself. Throws Error(kUsage) when the list does not exist, holds no label, matches nothing, or
// gives one video two labels.
Labels read_labels(Env* env, const std::string& list, const Catalogue& catalogue);

}  // namespace keiko::data
