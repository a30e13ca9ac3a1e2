// Arbitrary bytes as a video file: demuxing, the packet table, the map from packets to frames.

#include "fuzz/memory_file.h"
#include "fuzz/video_trial.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  static fuzz::MemoryFile file;
  file.write({data, size});
  fuzz::survives([&] { fuzz::require_sound(media::scan_video(file.path())); });
  return 0;
}
