// Videos that were scanned before, found by path: in the journals of stopped runs and in the
// catalogue that is there. Their records stay on the disk and are copied as bytes.

#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/env.h"
#include "data/catalogue.h"

namespace keiko::data {

// Where a record lies: which catalogue or journal, and which video or byte of it.
struct RecordPlace {
  uint32_t source = 0;
  uint64_t where = 0;
};

// Appends scanned videos to one journal file. Safe to use from many threads at once.
class JournalWriter {
 public:
  // Goes on after the first `length` bytes; cuts off the rest.
  JournalWriter(Env* env, const std::string& path, int64_t length)
      : file_(env->append_to(path, length)), length_(length) {}
  // Returns the offset of the record. Throws Error(kIo).
  uint64_t append(const VideoSummary& summary, const std::string& record);

 private:
  std::mutex mutex_;
  std::unique_ptr<WritableFile> file_;
  int64_t length_;
};

// Looking up is safe from many threads at once; adding is not. Memory: about 100 bytes a video.
class KnownVideos {
 public:
  explicit KnownVideos(Env* env) : env_(env) {}

  // Adds all videos of a catalogue. What cannot be read of it is left out.
  void add_catalogue(std::shared_ptr<const Catalogue> catalogue);
  // Adds the records of a journal, up to the first one that is torn; nothing when there is no
  // journal. Returns its number as a source. `good_length`: bytes up to there.
  uint32_t add_journal(const std::string& path, int64_t* good_length);

  struct Found {
    RecordPlace place;
    int64_t size, mtime_ns;
    bool is_verified;
  };
  // The video that was added last with this absolute path.
  std::optional<Found> find(const std::string& path) const;

  // The record and its summary, checked against its hash. Throws Error(kData) when it is damaged.
  VideoSummary read(RecordPlace place, std::vector<uint8_t>& record) const;

 private:
  struct Source {
    std::shared_ptr<const Catalogue> catalogue;  // or
    std::unique_ptr<ReadableFile> journal;
  };
  Env* env_;
  std::vector<Source> sources_;
  std::unordered_map<uint64_t, Found> by_path_;  // xxh3 of the path
};

}  // namespace keiko::data
