// Makes a catalogue: scans every video once, in parallel, and can be stopped and started again.
//
// Finished videos go to a journal beside the catalogue as they come; a later run takes them from
// there, and unchanged ones from the catalogue's previous generation. Several ranks scan a share
// each, and rank 0 joins their journals (index_ranks.h).

#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/env.h"

namespace keiko::data {

struct IndexOptions {
  std::vector<std::string> sources;  // see find_videos
  std::string out;                   // NAME.kix
  int threads = 1;                   // videos scanned side by side
  bool verify = false;  // decode everything, try the shortcuts; damaged videos are left out
  int64_t rank = 0, world_size = 1;  // all ranks see the same folders
  double timeout_s = 600;            // longest wait for a rank that makes no progress
};

struct IndexReport {
  // False on ranks other than 0: then all figures are of this rank's share.
  bool is_published = true;
  int64_t videos = 0;  // in the catalogue
  int64_t items = 0;   // more than videos when a path was named twice
  int64_t reused = 0;  // videos that were not scanned again
  int64_t frames = 0;
  int64_t bytes = 0;        // of the video files
  int64_t direct_read = 0;  // videos whose bytes are read without a demuxer
  std::vector<std::string> class_names;
  struct Skipped {
    std::string path, reason;
  };
  std::vector<Skipped> skipped;  // files that are not in the catalogue
  int64_t missing = 0;           // of the skipped: there is no such file

  // Strange, and indexed all the same: counts, and the first of them by name.
  static constexpr size_t kMostNamed = 5;
  int64_t duplicate_paths = 0;  // sources that name a file that came before
  std::vector<std::string> first_duplicate_paths;
  int64_t duplicate_contents = 0;  // videos whose size and content hash came before
  std::vector<std::pair<std::string, std::string>> first_duplicate_contents;  // this, that before
};

// The distinct ones in the order of their class indices: numbers first and by value, then words.
std::vector<std::string> sort_class_names(const std::vector<std::string>& labels);

// `progress(done, total)` is called now and then from one thread at a time; may be empty.
// Throws Error(kData) when no video could be indexed, with the reason for each, and Error(kIo)
// naming the file that could not be read after several tries, or the rank that made no progress for
// timeout_s. What was scanned before is in the journal then, and a later run goes on from there.
IndexReport build_catalogue(Env* env, const IndexOptions& options,
                            const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace keiko::data
