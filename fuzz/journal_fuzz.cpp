// Arbitrary bytes as the journal of an interrupted `keiko index`, and what the next run makes of
// it: the records are taken over, and published in a catalogue that can be read back.

#include "data/catalogue.h"
#include "data/index.h"
#include "fuzz/memory_env.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  fuzz::MemoryEnv env;
  env.files["/nowhere/out.kix.journal"] = fuzz::text_of({data, size});
  // The seeds' records are of this file: same size, same time, so that they are taken over. It is
  // not on the disk, so a video that is not in the journal cannot be scanned.
  env.files["/nowhere/video.mp4"] = std::string(1000, 'x');
  data::IndexOptions options;
  options.sources = {"/nowhere/video.mp4"};
  options.out = "/nowhere/out.kix";
  const bool indexed = fuzz::survives([&] { data::build_catalogue(&env, options, {}); });
  if (!indexed) return 0;
  const auto catalogue = data::Catalogue::open(&env, options.out);
  fuzz::require(catalogue->item_count() == 1, "the catalogue holds the one video");
  fuzz::require(catalogue->summary(catalogue->item(0).video).file.path == "/nowhere/video.mp4",
                "a record keeps its path");
  // Records are copied unread: with checksums off, what is in them may be anything.
  fuzz::survives([&] { catalogue->video(catalogue->item(0).video); });
  return 0;
}
