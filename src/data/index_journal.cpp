#include "data/index_journal.h"

#include "base/error.h"
#include "base/hash.h"
#include "data/catalogue_format.h"

namespace keiko::data {
namespace {

// A journal record: this head, whose hash also covers the path; the path; the video's record.
constexpr uint64_t kHeadSize = 80;
constexpr uint64_t kLongestPath = 1 << 16;

struct Head {
  uint64_t record_size = 0, record_hash = 0, path_size = 0;
  VideoSummary summary;
};

std::string head_of(const VideoSummary& s, const std::string& record) {
  std::string head;
  put(head, uint64_t(record.size()));
  put(head, xxh3(std::string_view(record)));
  put(head, s.file.size);
  put(head, s.file.mtime_ns);
  put(head, s.file.content_hash);
  put(head, fields_of(s, s.file.path.size()));
  put(head, xxh3(head + s.file.path));
  return head + s.file.path;
}

// False when there is no whole record at `offset`.
bool read_head(const ReadableFile& file, uint64_t offset, uint64_t file_size, Head& head) {
  if (offset > file_size || file_size - offset < kHeadSize) return false;
  uint8_t bytes[kHeadSize];
  file.read(int64_t(offset), bytes);
  head.record_size = get<uint64_t>(bytes);
  head.record_hash = get<uint64_t>(bytes + 8);
  const SummaryFields fields = get<SummaryFields>(bytes + 40);
  head.path_size = fields.path_size;
  const uint64_t left = file_size - offset - kHeadSize;
  if (head.path_size > std::min(kLongestPath, left) || head.record_size > left - head.path_size)
    return false;
  VideoSummary& s = head.summary;
  s.file.size = get<int64_t>(bytes + 16);
  s.file.mtime_ns = get<int64_t>(bytes + 24);
  s.file.content_hash = get<uint64_t>(bytes + 32);
  take_fields(fields, s);
  s.file.path.resize(head.path_size);
  file.read(int64_t(offset + kHeadSize),
            {reinterpret_cast<uint8_t*>(s.file.path.data()), s.file.path.size()});
  const std::string checked(reinterpret_cast<const char*>(bytes), kHeadSize - 8);
  return is_plausible(s) &&
         checksum_holds(checked + s.file.path, get<uint64_t>(bytes + kHeadSize - 8));
}

}  // namespace

uint64_t JournalWriter::append(const VideoSummary& summary, const std::string& record) {
  const std::string bytes = head_of(summary, record) + record;
  std::lock_guard lock(mutex_);
  const uint64_t at = uint64_t(length_);
  file_->append(bytes);
  length_ += int64_t(bytes.size());
  return at;
}

void KnownVideos::add_catalogue(std::shared_ptr<const Catalogue> catalogue) {
  const uint32_t source = uint32_t(sources_.size());
  sources_.push_back({catalogue, nullptr});
  try {
    by_path_.reserve(by_path_.size() + size_t(catalogue->video_count()));
    catalogue->each_summary([&](uint32_t index, const VideoSummary& s) {
      by_path_[xxh3(std::string_view(s.file.path))] = {
          {source, index}, s.file.size, s.file.mtime_ns, s.file.is_verified};
    });
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;  // damaged: the rest is scanned again
  }
}

uint32_t KnownVideos::add_journal(const std::string& path, int64_t* good_length) {
  const uint32_t source = uint32_t(sources_.size());
  sources_.push_back({});
  uint64_t at = 0;
  if (env_->status(path).exists) {
    sources_.back().journal = env_->open(path);
    const ReadableFile& file = *sources_.back().journal;
    Head head;
    while (read_head(file, at, uint64_t(file.size()), head)) {
      const VideoFile& f = head.summary.file;
      by_path_[xxh3(std::string_view(f.path))] = {{source, at}, f.size, f.mtime_ns, f.is_verified};
      at += kHeadSize + head.path_size + head.record_size;
    }
  }
  if (good_length != nullptr) *good_length = int64_t(at);
  return source;
}

std::optional<KnownVideos::Found> KnownVideos::find(const std::string& path) const {
  const auto found = by_path_.find(xxh3(std::string_view(path)));
  if (found == by_path_.end()) return std::nullopt;
  return found->second;
}

VideoSummary KnownVideos::read(RecordPlace place, std::vector<uint8_t>& record) const {
  const Source& source = sources_.at(place.source);
  if (source.catalogue) {
    record = source.catalogue->record(uint32_t(place.where));
    return source.catalogue->summary(uint32_t(place.where));
  }
  Head head;
  const ReadableFile& file = *source.journal;
  const uint64_t file_size = uint64_t(env_->status(file.path()).size);
  if (!read_head(file, place.where, file_size, head))
    fail(ErrorKind::kData, "{}: damaged at byte {}", file.path(), place.where);
  record.resize(head.record_size);
  file.read(int64_t(place.where + kHeadSize + head.path_size), record);
  if (!checksum_holds(record, head.record_hash))
    fail(ErrorKind::kData, "{}: damaged at byte {}", file.path(), place.where);
  return head.summary;
}

}  // namespace keiko::data
