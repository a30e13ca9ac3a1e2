// The index of many videos on disk: one immutable file that tells where every packet of every video
// lies, so that nothing is opened, probed or scanned when training starts.
//
// Read with pread, not mmap: a file that another machine truncates is then an error, not a SIGBUS.
// Opening costs a few reads whatever the number of items; a video's table is read when first asked
// for, checked against its own hash and verified by FlatBuffers before use. Layout:
// docs/formats.md.

#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/env.h"
#include "media/packet_table.h"

namespace keiko::data {

// One video's file as it was when indexed.
struct VideoFile {
  std::string path;  // absolute, or relative to the working folder of the process
  int64_t size = 0;  // bytes
  int64_t mtime_ns = 0;
  uint64_t content_hash = 0;  // sampled_xxh3_of_file
  bool is_verified = false;   // every frame was decoded while indexing
};

struct Video {
  VideoFile file;
  media::PacketTable table;
};

// What the order runs over: a stretch of frames of one video.
struct Item {
  uint32_t video = 0;       // index into the catalogue's videos
  int32_t label = -1;       // class index, -1: none
  int64_t first_frame = 0;  // presentation index
  int64_t frame_count = 0;  // > 0
};

// Safe to use from many threads at once.
class Catalogue {
 public:
  // True when the file starts as a catalogue does, whatever its version or state.
  static bool is_one(Env* env, const std::string& path);
  // Throws Error(kIo) when the file cannot be read and Error(kData) when it is torn, of an unknown
  // version, or not a catalogue.
  static std::shared_ptr<const Catalogue> open(Env* env, const std::string& path);

  const std::string& path() const { return path_; }
  int64_t item_count() const { return item_count_; }
  int64_t video_count() const { return video_count_; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  uint64_t generation() const { return generation_; }
  const std::string& created() const { return created_; }
  // Fingerprint of the items and of the videos' records: of their paths, sizes, times and packets.
  uint64_t hash() const { return hash_; }

  // Throws Error(kData) when the index is outside the catalogue or the record points outside it.
  Item item(int64_t index) const;
  // The table is kept for the next call while memory allows (4 million packets).
  std::shared_ptr<const Video> video(uint32_t index) const;

 private:
  Catalogue() = default;
  struct Section {
    int64_t offset = 0, size = 0;
    uint64_t hash = 0;
  };
  std::vector<uint8_t> read_section(const Section& section, const char* name) const;

  std::string path_;
  std::unique_ptr<ReadableFile> file_;
  int64_t item_count_ = 0, video_count_ = 0;
  std::vector<std::string> class_names_;
  std::string created_;
  uint64_t generation_ = 0, hash_ = 0;
  Section items_, video_places_, videos_;

  mutable std::mutex mutex_;
  mutable std::unordered_map<uint32_t, std::shared_ptr<const Video>> cache_;
  mutable int64_t cached_packets_ = 0;
};

// Collects videos and items and publishes them as one catalogue file. Not thread-safe.
class CatalogueWriter {
 public:
  // `path` is where the catalogue will be: videos below its folder are stored relative to it, so
  // that both can be moved together.
  explicit CatalogueWriter(const std::string& path) : path_(path) {}

  // Returns the video's index.
  uint32_t add_video(const Video& video);
  void add_item(const Item& item) { items_.push_back(item); }
  void set_class_names(std::vector<std::string> names) { class_names_ = std::move(names); }
  void set_generation(uint64_t generation) { generation_ = generation; }

  // Writes beside, fsyncs, renames. Throws Error(kIo).
  void publish(Env* env) const;

 private:
  std::string path_;
  std::string videos_;            // serialised, one after another
  std::vector<uint64_t> places_;  // offset, size and hash of each
  std::vector<Item> items_;
  std::vector<std::string> class_names_;
  uint64_t generation_ = 1;
};

// One video as FlatBuffers bytes; `path` is stored as given. Used by the catalogue and the journal.
std::string serialize_video(const Video& video);
// Throws Error(kData) naming `source` when the bytes are not a well-formed video.
Video parse_video(std::span<const uint8_t> bytes, const std::string& source);

}  // namespace keiko::data
