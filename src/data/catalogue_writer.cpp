#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/machine.h"
#include "data/catalogue.h"
#include "data/catalogue_format.h"
#include "data/catalogue_generated.h"

namespace keiko::data {

namespace fs = std::filesystem;

CatalogueWriter::CatalogueWriter(Env* env, const std::string& path)
    : env_(env), path_(path), folder_(fs::weakly_canonical(parent_folder(path)).string()) {}

CatalogueWriter::~CatalogueWriter() {
  if (!file_) return;
  file_.reset();
  try {
    env_->remove(path_ + ".tmp");
  } catch (const Error&) {
    // The error that kept it from being published says more.
  }
}

void CatalogueWriter::append(std::span<const uint8_t> bytes) {
  if (!file_) {
    file_ = env_->create(path_ + ".tmp");
    std::string header(kCatalogueMagic, 8);
    put(header, kCatalogueVersion);
    header.resize(kHeaderSize, '\0');
    file_->append(header);
    written_ = kHeaderSize;
  }
  file_->append(bytes);
  written_ += int64_t(bytes.size());
}

void CatalogueWriter::append(const std::string& bytes) {
  append({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

uint32_t CatalogueWriter::add_video(const Video& video) {
  Video stored = video;
  stored.file.path.clear();
  const std::string record = serialize_video(stored);
  return add_record(summarize(video),
                    {reinterpret_cast<const uint8_t*>(record.data()), record.size()});
}

uint32_t CatalogueWriter::add_record(const VideoSummary& summary, std::span<const uint8_t> record) {
  const fs::path absolute = fs::weakly_canonical(summary.file.path);
  const fs::path relative = absolute.lexically_relative(folder_);
  const std::string path =
      !relative.empty() && *relative.begin() != ".." ? relative.string() : absolute.string();
  const uint64_t offset = uint64_t(file_ ? written_ - kHeaderSize : 0);
  entries_.push_back({offset, record.size(), xxh3(record), paths_.size(), summary.file.size,
                      summary.file.mtime_ns, summary.file.content_hash,
                      fields_of(summary, path.size())});
  paths_ += path;
  // Every record starts at a multiple of 8, so that a reader may verify it in place.
  std::vector<uint8_t> padded(record.begin(), record.end());
  padded.resize((padded.size() + 7) / 8 * 8);
  append(padded);
  return uint32_t(entries_.size() - 1);
}

void CatalogueWriter::add_item(const Item& item) {
  items_.push_back(item);
  if (item.duration_s > 0 || item.video >= entries_.size()) return;
  const SummaryFields& video = entries_[item.video].fields;
  items_.back().duration_s =
      video.duration_s * double(item.frame_count) / double(video.frame_count);
  items_.back().fps = video.fps;
}

void CatalogueWriter::publish() {
  flatbuffers::FlatBufferBuilder b;
  const auto names = b.CreateVectorOfStrings(class_names_);
  const auto version = b.CreateString(KEIKO_VERSION);
  const auto created = b.CreateString(utc_now());
  b.Finish(fb::CreateMeta(b, version, created, generation_, names));
  const std::string meta(reinterpret_cast<const char*>(b.GetBufferPointer()), b.GetSize());
  append(std::string());  // the header, when there is no video
  const int64_t records_size = written_ - kHeaderSize;

  std::string items, videos, content;
  items.reserve(items_.size() * kItemSize);
  for (const Item& item : items_) {
    std::string bytes;
    put(bytes, item.video);
    put(bytes, item.label);
    put(bytes, item.first_frame);
    put(bytes, item.frame_count);
    put(bytes, item.duration_s);
    put(bytes, item.fps);
    put(bytes, xxh3(std::string_view(bytes)));
    items += bytes;
  }
  videos.reserve(entries_.size() * kVideoSize);
  for (const Entry& e : entries_) {
    std::string bytes;
    put(bytes, e.record_offset);
    put(bytes, e.record_size);
    put(bytes, e.record_hash);
    put(bytes, e.path_offset);
    put(bytes, e.file_size);
    put(bytes, e.mtime_ns);
    put(bytes, e.fields);
    put(bytes, xxh3(bytes + paths_.substr(e.path_offset, e.fields.path_size)));
    videos += bytes;
    put(content, e.content_hash);
  }

  std::string tail;
  auto add_section = [&](const std::string& bytes) {
    append(std::string(size_t((64 - written_ % 64) % 64), '\0'));
    put(tail, written_);
    put(tail, int64_t(bytes.size()));
    put(tail, xxh3(std::string_view(bytes)));
    append(bytes);
  };
  add_section(meta);
  add_section(items);
  add_section(videos);
  add_section(content);
  add_section(paths_);
  // Each record has its own hash, in the videos' section.
  put(tail, kHeaderSize);
  put(tail, records_size);
  put(tail, uint64_t{0});
  put(tail, uint32_t(kSections));
  put(tail, uint32_t{0});
  put(tail, uint64_t(written_ + kTailSize));
  std::string header(kCatalogueMagic, 8);
  put(header, kCatalogueVersion);
  header.resize(kHeaderSize, '\0');
  put(tail, xxh3(header + tail));
  tail.append(kCatalogueEnd, 8);
  append(tail);
  file_->sync();
  env_->rename(path_ + ".tmp", path_);
  file_.reset();
  env_->sync_folder(parent_folder(path_));
}

}  // namespace keiko::data
