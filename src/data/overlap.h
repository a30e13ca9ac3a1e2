// Videos that two sets of data have in common, found by content, without reading a packet table.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace keiko::data {

struct Overlap {
  int64_t count = 0;  // videos of the second set that are in the first
  static constexpr size_t kMostNamed = 5;
  std::vector<std::string> first_paths;  // of the second set
};

// Compares content hashes (sampled_xxh3_of_file). Memory: 8 bytes a video of `first`.
Overlap find_overlap(const Catalogue& first, const Catalogue& second);
// The same for the items in use: labels=FILE and items_per_class leave some out.
Overlap find_overlap(const Dataset& first, const Dataset& second);

// Logs a warning when held-out data was trained on: it says nothing of other data then.
void warn_of_overlap(const Dataset& training, const Dataset& evaluation);

}  // namespace keiko::data
