// Makes a catalogue: scans every video once, in parallel, and can be stopped and started again.
//
// Finished videos go to a journal beside the catalogue as they come; a later run takes them from
// there, and unchanged ones from the catalogue's previous generation.

#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::data {

struct IndexOptions {
  std::vector<std::string> sources;  // see find_videos
  std::string out;                   // NAME.kix
  int threads = 1;                   // videos scanned side by side
  bool verify = false;               // decode every frame; damaged videos are left out
};

struct IndexReport {
  int64_t videos = 0;  // in the catalogue
  int64_t reused = 0;  // of them, not scanned again
  int64_t frames = 0;
  int64_t bytes = 0;        // of the video files
  int64_t direct_read = 0;  // videos whose bytes are read without a demuxer
  std::vector<std::string> class_names;
  struct Skipped {
    std::string path, reason;
  };
  std::vector<Skipped> skipped;  // files that are not in the catalogue
};

// `progress(done, total)` is called now and then from one thread at a time; may be empty.
// Throws Error(kData) when no video could be indexed, with the reason for each.
IndexReport build_catalogue(Env* env, const IndexOptions& options,
                            const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace keiko::data
