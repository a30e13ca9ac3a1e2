// Arbitrary bytes as a list of videos, in each of the forms that `keiko index` takes, and as a
// table of targets.

#include <cmath>
#include <set>

#include "data/sources.h"
#include "data/targets.h"
#include "fuzz/memory_env.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  fuzz::MemoryEnv env;
  const std::string content = fuzz::text_of({data, size});
  env.files["/lists/a b.mp4"] = "x";
  for (const char* suffix : {"csv", "tsv", "jsonl", "txt"}) {
    const std::string path = std::string("/lists/hostile.") + suffix;
    env.files[path] = content;
    fuzz::survives([&] {
      const auto videos = data::find_videos(&env, {path});
      fuzz::require(!videos.empty(), "a list that is read names a video");
      for (const auto& video : videos)
        fuzz::require(video.path[0] == '/', "a list's paths are relative to the list");
    });
    fuzz::survives([&] {
      const data::TargetList list = data::read_target_list(&env, path);
      const size_t rows = list.paths.size(), columns = list.names.size();
      fuzz::require(std::set(list.names.begin(), list.names.end()).size() == columns,
                    "no target is there twice");
      fuzz::require(list.line.size() == rows && list.values.size() == rows * columns,
                    "every line has every column");
      for (const float value : list.values)
        fuzz::require(std::isnan(value) || std::isfinite(value), "targets are finite or unknown");
      for (size_t i = 0; i < rows; ++i) {
        bool knows_any = false;
        for (size_t c = 0; c < columns; ++c) knows_any |= !std::isnan(list.row(i)[c]);
        fuzz::require(knows_any, "a line without a target is left out");
      }
    });
  }
  return 0;
}
