// Arbitrary bytes as a list of videos, in each of the forms that `keiko index` takes.

#include "data/sources.h"
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
  }
  return 0;
}
