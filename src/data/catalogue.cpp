#include "data/catalogue.h"

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/machine.h"
#include "data/catalogue_generated.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'K', 'E', 'I', 'K', 'O', 'K', 'I', 'X'};
constexpr uint32_t kVersion = 1;
constexpr int kSections = 4;  // meta, items, video places, videos
constexpr int64_t kHeaderSize = 32 + kSections * 24;
constexpr int64_t kItemSize = 24;
constexpr int64_t kPlaceSize = 24;
// Tables kept in memory: at about 41 bytes a packet, 4 million packets are 164 MB.
constexpr int64_t kMostCachedPackets = 4'000'000;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <class T>
T get(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  fail(ErrorKind::kData, "{}: the catalogue is damaged ({}); make it again with keiko index", path,
       what);
}

template <class T>
std::vector<T> to_vector(const flatbuffers::Vector<T>* v) {
  return v == nullptr ? std::vector<T>() : std::vector<T>(v->begin(), v->end());
}
std::string to_string(const flatbuffers::String* s) { return s == nullptr ? "" : s->str(); }

}  // namespace

std::string serialize_video(const Video& video) {
  const media::PacketTable& t = video.table;
  const media::StreamParameters& s = t.stream;
  flatbuffers::FlatBufferBuilder b(1024);
  const auto path = b.CreateString(video.file.path);
  const auto format = b.CreateString(s.format_name);
  const auto codec = b.CreateString(s.codec);
  const auto pixel_format = b.CreateString(s.pixel_format);
  const auto extradata = b.CreateVector(s.extradata);
  const auto position = b.CreateVector(t.position);
  const auto size = b.CreateVector(t.size);
  const auto pts = b.CreateVector(t.pts);
  const auto dts = b.CreateVector(t.dts);
  const auto flags = b.CreateVector(t.flags);
  const auto frame_packet = b.CreateVector(t.frame_packet);
  const auto direct_off = b.CreateString(t.direct_read_off);
  const auto skipping_off = b.CreateString(t.skipping_off);
  fb::StreamBuilder f(b);
  f.add_path(path);
  f.add_file_size(video.file.size);
  f.add_file_mtime_ns(video.file.mtime_ns);
  f.add_content_hash(video.file.content_hash);
  f.add_stream_index(s.stream_index);
  f.add_format_name(format);
  f.add_codec(codec);
  f.add_pixel_format(pixel_format);
  f.add_codec_tag(s.codec_tag);
  f.add_profile(s.profile);
  f.add_level(s.level);
  f.add_width(s.width);
  f.add_height(s.height);
  f.add_sample_aspect_num(s.sample_aspect_num);
  f.add_sample_aspect_den(s.sample_aspect_den);
  f.add_rotation(s.rotation);
  f.add_color_range(s.color_range);
  f.add_color_primaries(s.color_primaries);
  f.add_color_transfer(s.color_transfer);
  f.add_color_space(s.color_space);
  f.add_chroma_location(s.chroma_location);
  f.add_field_order(s.field_order);
  f.add_reorder_depth(s.reorder_depth);
  f.add_bits_per_raw_sample(s.bits_per_raw_sample);
  f.add_extradata(extradata);
  f.add_time_base_num(s.time_base_num);
  f.add_time_base_den(s.time_base_den);
  f.add_frame_rate_num(s.frame_rate_num);
  f.add_frame_rate_den(s.frame_rate_den);
  f.add_position(position);
  f.add_size(size);
  f.add_pts(pts);
  f.add_dts(dts);
  f.add_flags(flags);
  f.add_frame_packet(frame_packet);
  f.add_direct_read(t.direct_read);
  f.add_direct_read_off(direct_off);
  f.add_skipping(t.skipping);
  f.add_skipping_off(skipping_off);
  f.add_mapped_by_decoding(t.mapped_by_decoding);
  f.add_corrupt_packets(t.corrupt_packets);
  f.add_verified(video.file.is_verified);
  b.Finish(f.Finish());
  return {reinterpret_cast<const char*>(b.GetBufferPointer()), b.GetSize()};
}

Video parse_video(std::span<const uint8_t> bytes, const std::string& source) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  if (!verifier.VerifyBuffer<fb::Stream>(nullptr)) damaged(source, "a video's record is malformed");
  const fb::Stream* f = flatbuffers::GetRoot<fb::Stream>(bytes.data());
  Video video;
  video.file = {to_string(f->path()), f->file_size(), f->file_mtime_ns(), f->content_hash(),
                f->verified()};
  media::PacketTable& t = video.table;
  media::StreamParameters& s = t.stream;
  s.stream_index = f->stream_index();
  s.format_name = to_string(f->format_name());
  s.codec = to_string(f->codec());
  s.pixel_format = to_string(f->pixel_format());
  s.codec_tag = f->codec_tag();
  s.profile = f->profile();
  s.level = f->level();
  s.width = f->width();
  s.height = f->height();
  s.sample_aspect_num = f->sample_aspect_num();
  s.sample_aspect_den = f->sample_aspect_den();
  s.rotation = f->rotation();
  s.color_range = f->color_range();
  s.color_primaries = f->color_primaries();
  s.color_transfer = f->color_transfer();
  s.color_space = f->color_space();
  s.chroma_location = f->chroma_location();
  s.field_order = f->field_order();
  s.reorder_depth = f->reorder_depth();
  s.bits_per_raw_sample = f->bits_per_raw_sample();
  s.extradata = to_vector(f->extradata());
  s.time_base_num = f->time_base_num();
  s.time_base_den = f->time_base_den();
  s.frame_rate_num = f->frame_rate_num();
  s.frame_rate_den = f->frame_rate_den();
  t.position = to_vector(f->position());
  t.size = to_vector(f->size());
  t.pts = to_vector(f->pts());
  t.dts = to_vector(f->dts());
  t.flags = to_vector(f->flags());
  t.frame_packet = to_vector(f->frame_packet());
  t.direct_read = f->direct_read();
  t.direct_read_off = to_string(f->direct_read_off());
  t.skipping = f->skipping();
  t.skipping_off = to_string(f->skipping_off());
  t.mapped_by_decoding = f->mapped_by_decoding();
  t.corrupt_packets = f->corrupt_packets();

  // A record that is well-formed may still lie: everything later code relies on is checked here.
  const size_t packets = t.size.size();
  if (t.position.size() != packets || t.pts.size() != packets || t.dts.size() != packets ||
      t.flags.size() != packets)
    damaged(source, "columns of different lengths");
  if (s.width <= 0 || s.height <= 0 || s.width > 1 << 16 || s.height > 1 << 16 ||
      s.sample_aspect_num <= 0 || s.sample_aspect_den <= 0 || s.time_base_den <= 0 ||
      s.frame_rate_den <= 0 || s.reorder_depth < 0 || s.reorder_depth > 16 || video.file.size < 0 ||
      s.rotation % 90 != 0 || s.rotation < 0 || s.rotation > 270)
    damaged(source, "impossible stream parameters");
  if (t.frame_packet.empty()) damaged(source, "a video without frames");
  for (uint32_t packet : t.frame_packet)
    if (packet >= packets) damaged(source, "a frame that refers to no packet");
  media::complete_table(t);
  if (t.direct_read)
    for (size_t i = 0; i < packets; ++i)
      if (t.position[i] < 0 || t.position[i] > video.file.size - int64_t(t.size[i]))
        damaged(source, "a packet outside its file");
  return video;
}

std::vector<uint8_t> Catalogue::read_section(const Section& section, const char* name) const {
  std::vector<uint8_t> bytes(size_t(section.size));
  file_->read(section.offset, bytes);
  if (xxh3(bytes) != section.hash) damaged(path_, std::string("checksum of ") + name);
  return bytes;
}

bool Catalogue::is_one(Env* env, const std::string& path) {
  const auto file = env->open(path);
  uint8_t start[sizeof(kMagic)] = {};
  if (file->size() < int64_t(sizeof(start))) return false;
  file->read(0, start);
  return std::memcmp(start, kMagic, sizeof(kMagic)) == 0;
}

std::shared_ptr<const Catalogue> Catalogue::open(Env* env, const std::string& path) {
  std::shared_ptr<Catalogue> c(new Catalogue);
  c->path_ = path;
  c->file_ = env->open(path);
  const int64_t file_size = c->file_->size();
  std::vector<uint8_t> header(size_t(std::min(kHeaderSize, file_size)));
  c->file_->read(0, header);
  if (file_size < 8 || std::memcmp(header.data(), kMagic, 8) != 0)
    fail(ErrorKind::kData, "{}: not a catalogue; make one with keiko index", path);
  if (file_size < kHeaderSize) damaged(path, "shorter than its header");
  const uint32_t version = get<uint32_t>(&header[8]);
  if (version != kVersion)
    fail(ErrorKind::kData, "{}: catalogue version {}, but this Keiko reads version {}; index again",
         path, version, kVersion);
  if (get<uint64_t>(&header[24]) != xxh3({header.data() + 32, header.size() - 32}))
    damaged(path, "checksum of the header");
  if (get<uint64_t>(&header[16]) != uint64_t(file_size))
    damaged(path, fmt::format("{} bytes instead of {}", file_size, get<uint64_t>(&header[16])));
  Section sections[kSections];
  for (int i = 0; i < kSections; ++i) {
    const uint8_t* entry = &header[size_t(32 + 24 * i)];
    sections[i] = {get<int64_t>(entry), get<int64_t>(entry + 8), get<uint64_t>(entry + 16)};
    if (sections[i].offset < kHeaderSize || sections[i].size < 0 ||
        sections[i].size > file_size - sections[i].offset)
      damaged(path, "a section outside the file");
  }
  // The items and the videos' own hashes say what the data is; when it was indexed does not matter.
  const uint64_t parts[] = {sections[1].hash, sections[2].hash};
  c->hash_ = xxh3(std::string_view(reinterpret_cast<const char*>(parts), sizeof(parts)));
  c->items_ = sections[1];
  c->video_places_ = sections[2];
  c->videos_ = sections[3];
  if (c->items_.size % kItemSize != 0 || c->video_places_.size % kPlaceSize != 0)
    damaged(path, "a section of broken length");
  c->item_count_ = c->items_.size / kItemSize;
  c->video_count_ = c->video_places_.size / kPlaceSize;
  // Items and places are checked as they are read (ranges, and each video's own hash): a full check
  // of a large catalogue would cost seconds at every start.
  const std::vector<uint8_t> meta = c->read_section(sections[0], "the description");
  flatbuffers::Verifier verifier(meta.data(), meta.size());
  if (!verifier.VerifyBuffer<fb::Meta>(nullptr)) damaged(path, "the description is malformed");
  const fb::Meta* m = flatbuffers::GetRoot<fb::Meta>(meta.data());
  c->created_ = to_string(m->created());
  c->generation_ = m->generation();
  if (m->class_names() != nullptr)
    for (const auto* name : *m->class_names()) c->class_names_.push_back(name->str());
  return c;
}

Item Catalogue::item(int64_t index) const {
  if (index < 0 || index >= item_count_)
    fail(ErrorKind::kData, "{}: item {} is outside its {} items", path_, index, item_count_);
  uint8_t record[kItemSize];
  file_->read(items_.offset + index * kItemSize, record);
  Item item{get<uint32_t>(record), get<int32_t>(record + 4), get<int64_t>(record + 8),
            get<int64_t>(record + 16)};
  if (item.video >= uint64_t(video_count_) || item.label < -1 ||
      item.label >= std::max<int64_t>(1, int64_t(class_names_.size())) || item.first_frame < 0 ||
      item.frame_count <= 0)
    damaged(path_, fmt::format("item {}", index));
  return item;
}

std::shared_ptr<const Video> Catalogue::video(uint32_t index) const {
  if (index >= uint64_t(video_count_))
    fail(ErrorKind::kData, "{}: video {} is outside its {} videos", path_, index, video_count_);
  {
    std::lock_guard lock(mutex_);
    if (const auto found = cache_.find(index); found != cache_.end()) return found->second;
  }
  uint8_t place[kPlaceSize];
  file_->read(video_places_.offset + int64_t(index) * kPlaceSize, place);
  const uint64_t offset = get<uint64_t>(place), size = get<uint64_t>(place + 8);
  if (offset > uint64_t(videos_.size) || size > uint64_t(videos_.size) - offset)
    damaged(path_, fmt::format("the place of video {}", index));
  std::vector<uint8_t> bytes(size);
  file_->read(videos_.offset + int64_t(offset), bytes);
  if (xxh3(bytes) != get<uint64_t>(place + 16))
    damaged(path_, fmt::format("checksum of video {}", index));
  auto video = std::make_shared<Video>(parse_video(bytes, path_));
  if (fs::path(video->file.path).is_relative())
    video->file.path =
        (fs::path(parent_folder(path_)) / video->file.path).lexically_normal().string();
  std::lock_guard lock(mutex_);
  if (cached_packets_ > kMostCachedPackets) {
    cache_.clear();
    cached_packets_ = 0;
  }
  if (cache_.emplace(index, video).second) cached_packets_ += video->table.packet_count();
  return video;
}

uint32_t CatalogueWriter::add_video(const Video& video) {
  Video stored = video;
  const fs::path folder = fs::weakly_canonical(parent_folder(path_));
  const fs::path absolute = fs::weakly_canonical(video.file.path);
  const fs::path relative = absolute.lexically_relative(folder);
  stored.file.path =
      !relative.empty() && *relative.begin() != ".." ? relative.string() : absolute.string();
  const std::string bytes = serialize_video(stored);
  // Every record starts at a multiple of 8, so that a reader may verify it in place.
  places_.insert(places_.end(), {videos_.size(), bytes.size(), xxh3(std::string_view(bytes))});
  videos_ += bytes;
  videos_.resize((videos_.size() + 7) / 8 * 8, '\0');
  return uint32_t(places_.size() / 3 - 1);
}

void CatalogueWriter::publish(Env* env) const {
  flatbuffers::FlatBufferBuilder b;
  const auto names = b.CreateVectorOfStrings(class_names_);
  const auto version = b.CreateString(KEIKO_VERSION);
  const auto created = b.CreateString(utc_now());
  b.Finish(fb::CreateMeta(b, version, created, generation_, names));
  const std::string meta(reinterpret_cast<const char*>(b.GetBufferPointer()), b.GetSize());

  std::string items, places;
  for (const Item& item : items_) {
    put(items, item.video);
    put(items, item.label);
    put(items, item.first_frame);
    put(items, item.frame_count);
  }
  for (uint64_t value : places_) put(places, value);

  const std::string_view contents[kSections] = {meta, items, places, videos_};
  std::string table;
  int64_t offset = kHeaderSize;
  for (const std::string_view content : contents) {
    offset = (offset + 63) / 64 * 64;
    put(table, offset);
    put(table, int64_t(content.size()));
    put(table, xxh3(content));
    offset += int64_t(content.size());
  }
  std::string header(kMagic, 8);
  put(header, kVersion);
  put(header, uint32_t(kSections));
  put(header, uint64_t(offset));
  put(header, xxh3(std::string_view(table)));
  header += table;

  const std::string beside = path_ + ".tmp";
  {
    const auto file = env->create(beside);
    file->append(header);
    int64_t at = int64_t(header.size());
    for (const std::string_view content : contents) {
      const int64_t start = (at + 63) / 64 * 64;
      file->append(std::string(size_t(start - at), '\0'));
      file->append(content);
      at = start + int64_t(content.size());
    }
    file->sync();
  }
  env->rename(beside, path_);
  env->sync_folder(parent_folder(path_));
}

}  // namespace keiko::data
