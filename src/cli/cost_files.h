// Reads what `keiko simulate` is told about a machine: files of costs, and the figures that `keiko
// bench` writes.

#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dist/cluster_model.h"

namespace keiko::cli {

// What `keiko bench reduce --json` measured, to be held against the model.
struct MeasuredReduction {
  std::string file;
  int64_t ranks = 1;
  std::optional<double> alone_s, with_s, without_s, hidden;
};

struct CostFiles {
  dist::ClusterCosts costs;
  std::string about;                           // of the last file that says
  std::map<std::string, std::string> sources;  // where each cost that is not a default comes from
  std::vector<MeasuredReduction> measured;
};

// Reads `paths` in order, later ones win, then `settings` ("key=value"). A file with `parts_s` is
// taken for one of `bench step`, one with `alone_s` for one of `bench reduce`. Throws Error(kUsage)
// on keys and values that make no sense, by file and line and with the nearest key; Error(kIo).
CostFiles read_cost_files(const std::vector<std::string>& paths,
                          const std::vector<std::string>& settings);

}  // namespace keiko::cli
