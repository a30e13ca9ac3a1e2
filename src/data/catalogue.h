// The index of many videos on disk: one immutable file that tells where every packet of every video
// lies, so that nothing is opened, probed or scanned when training starts.
//
// Read with pread, not mmap: a file that another machine truncates is then an error, not a SIGBUS.
// Opening costs a few reads whatever the number of items; a video's table is read when first asked
// for, checked against its own hash and verified by FlatBuffers before use. Layout:
// docs/formats.md.

#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/env.h"
#include "data/catalogue_format.h"
#include "media/packet_table.h"

namespace keiko::data {

// One video's file as it was when indexed.
struct VideoFile {
  std::string path;  // from a catalogue: absolute
  int64_t size = 0;  // bytes
  int64_t mtime_ns = 0;
  uint64_t content_hash = 0;  // sampled_xxh3_of_file
  bool is_verified = false;   // every frame was decoded while indexing

  // Of a packed video, whose file is a tar shard. Positions in its table count from the shard's
  // start.
  struct Member {
    std::string name;    // empty: the file is the video itself
    int64_t offset = 0;  // of its first byte in the shard
    int64_t size = 0;    // bytes
    uint64_t hash = 0;   // xxh3 of its bytes
  };
  Member member = {};
};

struct Video {
  VideoFile file;
  media::PacketTable table;
  // Every shown frame has a time, and times do not go back: see times_are_usable.
  bool has_times = false;
};

// What is known of a video without its table. A packed video's content_hash is its member's.
struct VideoSummary {
  VideoFile file;
  int64_t frame_count = 0;  // shown frames
  double duration_s = 0;    // 0: unknown
  double fps = 0;           // average, frames a second; 0: unknown
  bool direct_read = false;
  // Empty where only the record says it (a rare codec, a catalogue of an early build); `skipping`
  // is not known then either.
  std::string codec;
  bool skipping = false;
};

// False for figures that no video has. What reads a summary from a file refuses those.
bool is_plausible(const VideoSummary& summary);

// What the order runs over: a stretch of frames of one video.
struct Item {
  uint32_t video = 0;       // index into the catalogue's videos
  int32_t label = -1;       // class index, -1: none
  int64_t first_frame = 0;  // presentation index
  int64_t frame_count = 0;  // > 0
  double duration_s = 0;    // of the stretch; 0: unknown
  double fps = 0;           // average, frames a second; 0: unknown
};

// Safe to use from many threads at once.
class Catalogue {
 public:
  // True when the file starts as a catalogue does, whatever its version or state.
  static bool is_one(Env* env, const std::string& path);
  // `path` may be a pack's folder: then its pack.kix is opened. Throws Error(kIo) when the file
  // cannot be read and Error(kData) when it is torn, of an unknown version, or not a catalogue.
  static std::shared_ptr<const Catalogue> open(Env* env, const std::string& path);

  const std::string& path() const { return path_; }
  int64_t item_count() const { return item_count_; }
  int64_t video_count() const { return video_count_; }
  const std::vector<std::string>& class_names() const { return class_names_; }
  uint64_t generation() const { return generation_; }
  const std::string& created() const { return created_; }
  // Fingerprint of the items and of the videos' records: of their paths, sizes, times and packets.
  uint64_t hash() const { return hash_; }

  // Cost: one read. Throws Error(kData) when the index is outside the catalogue, or the record is
  // damaged or points outside it.
  Item item(int64_t index) const;
  // All items in order, read in large pieces: about 50 ms a million. Throws as item().
  void each_item(const std::function<void(int64_t index, const Item& item)>& visit) const;

  // A video's file and length, without its table. Cost: three small reads. Throws as item().
  VideoSummary summary(uint32_t index) const;
  // All summaries in order, read in large pieces. Throws as item().
  void each_summary(
      const std::function<void(uint32_t index, const VideoSummary& summary)>& visit) const;
  // VideoFile::content_hash of every video (of a packed one its member's hash), 8 bytes each.
  // Throws Error(kData) when damaged.
  std::vector<uint64_t> content_hashes() const;

  // The table is kept for the next call while memory allows (4 million packets).
  // Throws Error(kIo), and Error(kData) when the record is damaged.
  std::shared_ptr<const Video> video(uint32_t index) const;
  // The video's serialised record as it lies in the file, checked against its hash: for copying.
  std::vector<uint8_t> record(uint32_t index) const;

 private:
  Catalogue() = default;
  struct Section {
    int64_t offset = 0, size = 0;
    uint64_t hash = 0;
  };
  struct Entry {
    uint64_t record_offset = 0, record_size = 0, record_hash = 0;
    VideoSummary summary;  // without its content hash
  };
  std::vector<uint8_t> read_section(const Section& section, const char* name) const;
  Item parse_item(const uint8_t* bytes, int64_t index) const;
  // `paths`: the bytes of the section from `paths_at` on; empty: read from the file.
  Entry parse_entry(const uint8_t* bytes, uint32_t index, std::span<const uint8_t> paths = {},
                    uint64_t paths_at = 0) const;
  Entry entry(uint32_t index) const;
  std::vector<uint8_t> record_of(const Entry& entry, uint32_t index) const;

  std::string path_, folder_;  // the folder is absolute, without links
  std::unique_ptr<ReadableFile> file_;
  int64_t item_count_ = 0, video_count_ = 0;
  std::vector<std::string> class_names_;
  std::string created_;
  uint64_t generation_ = 0, hash_ = 0;
  Section items_, videos_, content_, paths_, records_;

  mutable std::mutex mutex_;
  mutable std::unordered_map<uint32_t, std::shared_ptr<const Video>> cache_;
  mutable int64_t cached_packets_ = 0;
};

// Writes one catalogue file. Records go to the disk at once, beside the place of the catalogue, so
// that memory holds a few hundred bytes a video, and no packet. Not thread-safe.
class CatalogueWriter {
 public:
  // `path` is where the catalogue will be: videos below its folder are stored relative to it, so
  // that both can be moved together. `env` outlives the writer.
  CatalogueWriter(Env* env, const std::string& path);
  // Removes what was written when it was not published.
  ~CatalogueWriter();
  CatalogueWriter(const CatalogueWriter&) = delete;
  CatalogueWriter& operator=(const CatalogueWriter&) = delete;

  // Returns the video's index. Throws Error(kIo).
  uint32_t add_video(const Video& video);
  // The same for a record that serialize_video made of a video with an empty path, without parsing
  // it. Throws Error(kIo).
  uint32_t add_record(const VideoSummary& summary, std::span<const uint8_t> record);
  // An item without a duration gets its share of the video's.
  void add_item(const Item& item);
  void set_class_names(std::vector<std::string> names) { class_names_ = std::move(names); }
  void set_generation(uint64_t generation) { generation_ = generation; }

  // Writes the rest, fsyncs, renames. Call once, last. Throws Error(kIo).
  void publish();

 private:
  struct Entry {
    uint64_t record_offset, record_size, record_hash, path_offset;
    int64_t file_size, mtime_ns;
    uint64_t content_hash;
    SummaryFields fields;
  };
  void append(std::span<const uint8_t> bytes);
  void append(const std::string& bytes);

  Env* env_;
  std::string path_, folder_;
  std::unique_ptr<WritableFile> file_;  // opened by the first record, or by publish()
  int64_t written_ = 0;                 // bytes
  std::string paths_;                   // one after another
  std::vector<Entry> entries_;
  std::vector<Item> items_;
  std::vector<std::string> class_names_;
  uint64_t generation_ = 1;
};

// One video as FlatBuffers bytes; `path` is stored as given. Used by the catalogue and the journal.
std::string serialize_video(const Video& video);
// Throws Error(kData) naming `source` when the bytes are not a well-formed video.
Video parse_video(std::span<const uint8_t> bytes, const std::string& source);

// File, length and rate of a video that was scanned.
VideoSummary summarize(const Video& video);

}  // namespace keiko::data
