// Arbitrary bytes as a video file, all the way: scan, plan, decode random clips to pixels.

#include "base/hash.h"
#include "fuzz/memory_file.h"
#include "fuzz/video_trial.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  static fuzz::MemoryFile file;
  file.write({data, size});
  // Drawn from the bytes: a crashing input shows the same clips again.
  fuzz::try_video(file.path(), xxh3({data, size}), 3, 200);
  return 0;
}
