// A record of a video that lies: any codec parameters and any packet table, over any bytes.
//
// Input: u32 length of a FlatBuffers record, the record, and the content of the file that it
// describes. This is what training meets when catalogue and video are both hostile.

#include <cstring>

#include "base/hash.h"
#include "data/catalogue.h"
#include "fuzz/memory_env.h"
#include "fuzz/video_trial.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  uint32_t length;
  if (size < sizeof(length)) return 0;
  std::memcpy(&length, data, sizeof(length));
  std::span<const uint8_t> rest(data + sizeof(length), size - sizeof(length));
  length = uint32_t(std::min<size_t>(length, rest.size()));
  const std::vector<uint8_t> record(rest.begin(), rest.begin() + length);  // aligned, as on disk
  fuzz::MemoryEnv env;
  env.files["/video"] = fuzz::text_of(rest.subspan(length));
  fuzz::survives([&] {
    const data::Video video = data::parse_video(record, "hostile.kix");
    fuzz::require_sound(video.table);
    fuzz::TrialOutcome outcome;
    fuzz::decode_random_clips(&env, video.table, "/video", xxh3({data, size}), 2, 200, outcome);
  });
  return 0;
}
