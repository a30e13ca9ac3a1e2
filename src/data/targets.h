// Targets: numbers that are learned from a video, a column for each. They are several classes at
// once (0 or 1 each) or quantities; which of the two is the objective's business.
//
// Like labels they stand apart from the index. What nobody measured is NaN, and teaches nothing.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/catalogue.h"
#include "data/path_match.h"

namespace keiko::data {

// The lines of a list that hold a target.
struct TargetList {
  std::vector<std::string> names;  // of the columns; distinct
  std::vector<std::string> paths;  // as they are written there
  std::vector<int64_t> line;       // of each path, from 1
  std::vector<float> values;       // [paths, names], row by row; NaN: not known

  const float* row(size_t index) const { return values.data() + index * names.size(); }
};

// Reads one list:
// - *.csv, *.tsv: a header row that names `path` and the targets, in any order; `label` is left to
//   data.labels. A cell is a number, true or false; empty or `nan` is not known.
// - *.jsonl: {"path": ..., "targets": {NAME: number, ...}}, the columns being all names that occur,
//   sorted as class names are, and what a line leaves out not known; or "targets": [number, ...],
//   as many on every line, named 0, 1, ... `null` is not known.
// Lines without a known target are left out. Throws Error(kUsage) naming file and line for another
// suffix, for a header without path or targets, or with one twice, for a row of another length, for
// a path that is empty, for more than 4096 targets, and, with column and value, for what is no
// finite number.
TargetList read_target_list(Env* env, const std::string& path);

struct Targets {
  TargetList list;
  std::vector<int32_t> of_video;  // row of `list` of each video of the catalogue; -1: none
  UnmatchedPaths unmatched;       // rows of `list`
};

// Reads a list and finds each path among the catalogue's videos (see match_paths). Throws
// Error(kUsage) also when the list does not exist, holds no target, matches nothing, or gives one
// video two rows that differ.
Targets read_targets(Env* env, const std::string& list, const Catalogue& catalogue);

// One target over many items. Sums run in the order of the items, in float64.
struct TargetColumn {
  std::string name;
  int64_t known = 0;        // items
  double mean = 0;          // of them; 0 when there are none
  double std = 1;           // of the population; 1 when it is 0: then there is nothing to scale
  float low = 0, high = 0;  // the extremes
  std::string low_place, high_place;  // "targets.csv:14": where they are written
};

}  // namespace keiko::data
