#include "data/catalogue.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <filesystem>
#include <iterator>

#include "base/error.h"
#include "base/hash.h"
#include "data/catalogue_format.h"
#include "data/catalogue_generated.h"
#include "data/frame_times.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostFrames = UINT32_MAX;  // of a video: that is how its table counts
// Tables kept in memory: at about 41 bytes a packet, 4 million packets are 164 MB.
constexpr int64_t kMostCachedPackets = 4'000'000;
// Items and videos are read so many at a time when all of them are asked for.
constexpr int64_t kPiece = 8192;

// A summary's flags. What is written stays written: new codecs go to the end.
constexpr uint32_t kVerifiedFlag = 1, kDirectReadFlag = 2, kSkippingFlag = 4;
constexpr int kCodecShift = 8;
constexpr const char* kCodecs[] = {"",     "h264",   "hevc",       "vp8",        "vp9",
                                   "av1",  "mpeg4",  "mpeg2video", "mpeg1video", "mjpeg",
                                   "ffv1", "prores", "theora",     "rawvideo"};

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  fail(ErrorKind::kData, "{}: the catalogue is damaged ({}); make it again with keiko index", path,
       what);
}

// Copied as bytes: FlatBuffers verifies where a vector lies, but not that its elements are aligned.
// And in one piece: a film's table has millions of values.
template <class T>
std::vector<T> to_vector(const flatbuffers::Vector<T>* v) {
  std::vector<T> out(v == nullptr ? 0 : v->size());
  if (!out.empty()) std::memcpy(out.data(), v->Data(), out.size() * sizeof(T));
  return out;
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
  const auto reuse_off = b.CreateString(t.reuse_off);
  const auto member = b.CreateString(video.file.member.name);
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
  f.add_reuse_off(reuse_off);
  f.add_mapped_by_decoding(t.mapped_by_decoding);
  f.add_corrupt_packets(t.corrupt_packets);
  f.add_verified(video.file.is_verified);
  f.add_member(member);
  f.add_member_offset(video.file.member.offset);
  f.add_member_size(video.file.member.size);
  f.add_member_hash(video.file.member.hash);
  b.Finish(f.Finish());
  return {reinterpret_cast<const char*>(b.GetBufferPointer()), b.GetSize()};
}

Video parse_video(std::span<const uint8_t> bytes, const std::string& source) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  if (!verifier.VerifyBuffer<fb::Stream>(nullptr)) damaged(source, "a video's record is malformed");
  const fb::Stream* f = flatbuffers::GetRoot<fb::Stream>(bytes.data());
  Video video;
  video.file = {to_string(f->path()),
                f->file_size(),
                f->file_mtime_ns(),
                f->content_hash(),
                f->verified(),
                {to_string(f->member()), f->member_offset(), f->member_size(), f->member_hash()}};
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
  t.reuse_off = to_string(f->reuse_off());
  t.mapped_by_decoding = f->mapped_by_decoding();
  t.corrupt_packets = f->corrupt_packets();

  // A record that is well-formed may still lie: everything later code relies on is checked here.
  const VideoFile::Member& m = video.file.member;
  if (video.file.size < 0 || m.offset < 0 || m.size < 0 || m.offset > video.file.size - m.size)
    damaged(source, "a member outside its shard");
  const size_t packets = t.size.size();
  if (t.position.size() != packets || t.pts.size() != packets || t.dts.size() != packets ||
      t.flags.size() != packets)
    damaged(source, "columns of different lengths");
  if (s.width <= 0 || s.height <= 0 || s.width > 1 << 16 || s.height > 1 << 16 ||
      s.sample_aspect_num <= 0 || s.sample_aspect_den <= 0 || s.time_base_den <= 0 ||
      s.time_base_num <= 0 || s.time_base_num > INT_MAX || s.time_base_den > INT_MAX ||
      s.frame_rate_num < 0 || s.frame_rate_num > INT_MAX || s.frame_rate_den > INT_MAX ||
      s.frame_rate_den <= 0 || s.reorder_depth < 0 || s.reorder_depth > 16 || video.file.size < 0 ||
      s.rotation % 90 != 0 || s.rotation < 0 || s.rotation > 270)
    damaged(source, "impossible stream parameters");
  if (t.frame_packet.empty()) damaged(source, "a video without frames");
  for (uint32_t packet : t.frame_packet)
    if (packet >= packets) damaged(source, "a frame that refers to no packet");
  constexpr uint32_t kLargestPacket = 1u << 30;  // bytes; libavcodec counts them in an int
  for (uint32_t size : t.size)
    if (size > kLargestPacket) damaged(source, "a packet of more than 1 GiB");
  media::complete_table(t);
  if (t.direct_read)
    for (size_t i = 0; i < packets; ++i)
      if (t.position[i] < 0 || t.position[i] > video.file.size - int64_t(t.size[i]))
        damaged(source, "a packet outside its file");
  video.has_times = times_are_usable(t);
  return video;
}

VideoSummary summarize(const Video& video) {
  VideoSummary summary;
  summary.file = video.file;
  // What tells one video from another: of a packed one not the shard's content, but its own.
  if (!video.file.member.name.empty()) summary.file.content_hash = video.file.member.hash;
  summary.frame_count = video.table.frame_count();
  summary.direct_read = video.table.direct_read;
  summary.codec = video.table.stream.codec;
  summary.skipping = video.table.skipping;
  const bool has_times = times_are_usable(video.table);
  const double rate = video.table.stream.frames_per_second();
  if (!has_times && !(std::isfinite(rate) && rate > 0)) return summary;
  const FrameTimes times(video.table, has_times, 0, summary.frame_count, 25);
  if (!std::isfinite(times.duration()) || times.duration() <= 0) return summary;
  summary.duration_s = times.duration();
  summary.fps = double(summary.frame_count) / summary.duration_s;
  return summary;
}

SummaryFields fields_of(const VideoSummary& s, size_t path_size) {
  const auto codec = std::find(std::begin(kCodecs), std::end(kCodecs), s.codec);
  const uint32_t number = codec == std::end(kCodecs) ? 0 : uint32_t(codec - std::begin(kCodecs));
  return {uint32_t(path_size),
          (s.file.is_verified ? kVerifiedFlag : 0) | (s.direct_read ? kDirectReadFlag : 0) |
              (number > 0 && s.skipping ? kSkippingFlag : 0) | number << kCodecShift,
          s.frame_count, s.duration_s, s.fps};
}

void take_fields(const SummaryFields& f, VideoSummary& s) {
  s.file.is_verified = f.flags & kVerifiedFlag;
  s.direct_read = f.flags & kDirectReadFlag;
  s.skipping = f.flags & kSkippingFlag;
  const uint32_t number = f.flags >> kCodecShift & 0xff;
  s.codec = number < std::size(kCodecs) ? kCodecs[number] : "";
  s.frame_count = f.frame_count;
  s.duration_s = f.duration_s;
  s.fps = f.fps;
}

bool is_plausible(const VideoSummary& s) {
  return s.file.size >= 0 && s.frame_count > 0 && s.frame_count <= kMostFrames &&
         s.duration_s >= 0 && s.duration_s < 1e12 && s.fps >= 0 && s.fps < 1e12;
}

std::vector<uint8_t> Catalogue::read_section(const Section& section, const char* name) const {
  std::vector<uint8_t> bytes(size_t(section.size));
  file_->read(section.offset, bytes);
  if (!checksum_holds(bytes, section.hash)) damaged(path_, std::string("checksum of ") + name);
  return bytes;
}

bool Catalogue::is_one(Env* env, const std::string& path) {
  const auto file = env->open(path);
  uint8_t start[8] = {};
  if (file->size() < int64_t(sizeof(start))) return false;
  file->read(0, start);
  return std::memcmp(start, kCatalogueMagic, sizeof(start)) == 0;
}

std::shared_ptr<const Catalogue> Catalogue::open(Env* env, const std::string& given) {
  std::string path = given;
  if (env->status(given).is_folder) {
    path = (fs::path(given) / "pack.kix").string();
    if (!env->status(path).exists)
      fail(ErrorKind::kData,
           "{}: a folder without pack.kix; finish the pack (keiko pack goes on where it stopped), "
           "or give a catalogue",
           given);
  }
  if (!is_one(env, path))
    fail(ErrorKind::kData, "{}: not a catalogue; make one with keiko index", path);
  std::shared_ptr<Catalogue> c(new Catalogue);
  c->path_ = path;
  c->folder_ = fs::weakly_canonical(parent_folder(path)).string();
  if (c->folder_ == "/") c->folder_.clear();
  c->file_ = env->open(path);
  const int64_t file_size = c->file_->size();
  if (file_size < kHeaderSize) damaged(path, "shorter than its header");
  std::vector<uint8_t> header(kHeaderSize), tail(kTailSize);
  c->file_->read(0, header);
  const uint32_t version = get<uint32_t>(&header[8]);
  if (version != kCatalogueVersion)
    fail(
        ErrorKind::kData,
        "{}: catalogue version {}, but this Keiko reads version {}; make it again with keiko index",
        path, version, kCatalogueVersion);
  if (file_size < kHeaderSize + kTailSize) damaged(path, "shorter than its header and its end");
  c->file_->read(file_size - kTailSize, tail);
  const uint8_t* end = &tail[kSections * 24];
  if (std::memcmp(end + 24, kCatalogueEnd, 8) != 0) damaged(path, "its end is missing");
  if (!checksum_holds(
          std::string(header.begin(), header.end()) + std::string(tail.begin(), tail.end() - 16),
          get<uint64_t>(end + 16)))
    damaged(path, "checksum of the header");
  if (get<uint64_t>(end + 8) != uint64_t(file_size))
    damaged(path, fmt::format("{} bytes instead of {}", file_size, get<uint64_t>(end + 8)));
  Section sections[kSections];
  for (int i = 0; i < kSections; ++i) {
    const uint8_t* entry = &tail[size_t(24 * i)];
    sections[i] = {get<int64_t>(entry), get<int64_t>(entry + 8), get<uint64_t>(entry + 16)};
    if (sections[i].offset < kHeaderSize || sections[i].size < 0 ||
        sections[i].offset > file_size || sections[i].size > file_size - sections[i].offset)
      damaged(path, "a section outside the file");
  }
  c->items_ = sections[1];
  c->videos_ = sections[2];
  c->content_ = sections[3];
  c->paths_ = sections[4];
  c->records_ = sections[5];
  c->item_count_ = c->items_.size / kItemSize;
  c->video_count_ = c->videos_.size / kVideoSize;
  if (c->items_.size % kItemSize != 0 || c->videos_.size % kVideoSize != 0 ||
      c->content_.size != c->video_count_ * 8 || c->video_count_ > UINT32_MAX)
    damaged(path, "a section of broken length");
  std::string parts;
  for (int i : {1, 2, 4}) put(parts, sections[i].hash);
  c->hash_ = xxh3(std::string_view(parts));
  // Items and videos carry hashes of their own and are checked as they are read: a full check of a
  // large catalogue would cost seconds at every start.
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

Item Catalogue::parse_item(const uint8_t* bytes, int64_t index) const {
  if (!checksum_holds(std::span(bytes, kItemSize - 8), get<uint64_t>(bytes + kItemSize - 8)))
    damaged(path_, fmt::format("checksum of item {}", index));
  const Item item{get<uint32_t>(bytes),     get<int32_t>(bytes + 4), get<int64_t>(bytes + 8),
                  get<int64_t>(bytes + 16), get<double>(bytes + 24), get<double>(bytes + 32)};
  // Negated, so that a NaN is refused too.
  if (item.video >= uint64_t(video_count_) || item.label < -1 ||
      item.label >= std::max<int64_t>(1, int64_t(class_names_.size())) || item.first_frame < 0 ||
      item.frame_count <= 0 || item.first_frame > kMostFrames ||
      item.frame_count > kMostFrames - item.first_frame ||
      !(item.duration_s >= 0 && item.duration_s < 1e12) || !(item.fps >= 0 && item.fps < 1e12))
    damaged(path_, fmt::format("item {}", index));
  return item;
}

Item Catalogue::item(int64_t index) const {
  if (index < 0 || index >= item_count_)
    fail(ErrorKind::kData, "{}: item {} is outside its {} items", path_, index, item_count_);
  uint8_t bytes[kItemSize];
  file_->read(items_.offset + index * kItemSize, bytes);
  return parse_item(bytes, index);
}

void Catalogue::each_item(const std::function<void(int64_t, const Item&)>& visit) const {
  std::vector<uint8_t> bytes;
  for (int64_t first = 0; first < item_count_; first += kPiece) {
    const int64_t n = std::min(kPiece, item_count_ - first);
    bytes.resize(size_t(n * kItemSize));
    file_->read(items_.offset + first * kItemSize, bytes);
    for (int64_t i = 0; i < n; ++i)
      visit(first + i, parse_item(&bytes[size_t(i * kItemSize)], first + i));
  }
}

Catalogue::Entry Catalogue::parse_entry(const uint8_t* bytes, uint32_t index,
                                        std::span<const uint8_t> paths, uint64_t paths_at) const {
  Entry entry;
  entry.record_offset = get<uint64_t>(bytes);
  entry.record_size = get<uint64_t>(bytes + 8);
  entry.record_hash = get<uint64_t>(bytes + 16);
  const uint64_t path_offset = get<uint64_t>(bytes + 24);
  VideoSummary& s = entry.summary;
  s.file.size = get<int64_t>(bytes + 32);
  s.file.mtime_ns = get<int64_t>(bytes + 40);
  const SummaryFields fields = get<SummaryFields>(bytes + 48);
  const uint32_t path_size = fields.path_size;
  take_fields(fields, s);
  if (entry.record_offset > uint64_t(records_.size) ||
      entry.record_size > uint64_t(records_.size) - entry.record_offset ||
      path_offset > uint64_t(paths_.size) || path_size > uint64_t(paths_.size) - path_offset ||
      path_size == 0 || path_size > 1 << 16 || !is_plausible(s))
    damaged(path_, fmt::format("the place of video {}", index));
  std::string checked(reinterpret_cast<const char*>(bytes), kVideoSize - 8);
  if (path_offset >= paths_at && path_offset - paths_at + path_size <= paths.size()) {
    s.file.path.assign(reinterpret_cast<const char*>(paths.data() + (path_offset - paths_at)),
                       path_size);
  } else {
    s.file.path.resize(path_size);
    file_->read(paths_.offset + int64_t(path_offset),
                {reinterpret_cast<uint8_t*>(s.file.path.data()), path_size});
  }
  checked += s.file.path;
  if (!checksum_holds(checked, get<uint64_t>(bytes + kVideoSize - 8)))
    damaged(path_, fmt::format("checksum of the place of video {}", index));
  if (fs::path(s.file.path).is_relative()) s.file.path = folder_ + "/" + s.file.path;
  return entry;
}

Catalogue::Entry Catalogue::entry(uint32_t index) const {
  if (index >= uint64_t(video_count_))
    fail(ErrorKind::kData, "{}: video {} is outside its {} videos", path_, index, video_count_);
  uint8_t bytes[kVideoSize];
  file_->read(videos_.offset + int64_t(index) * kVideoSize, bytes);
  return parse_entry(bytes, index);
}

VideoSummary Catalogue::summary(uint32_t index) const {
  VideoSummary summary = entry(index).summary;
  uint8_t bytes[8];
  file_->read(content_.offset + int64_t(index) * 8, bytes);
  summary.file.content_hash = get<uint64_t>(bytes);
  return summary;
}

void Catalogue::each_summary(
    const std::function<void(uint32_t, const VideoSummary&)>& visit) const {
  std::vector<uint8_t> bytes, paths, content;
  for (int64_t first = 0; first < video_count_; first += kPiece) {
    const int64_t n = std::min(kPiece, video_count_ - first);
    bytes.resize(size_t(n * kVideoSize));
    file_->read(videos_.offset + first * kVideoSize, bytes);
    content.resize(size_t(n * 8));
    file_->read(content_.offset + first * 8, content);
    // Paths lie in the order of the videos, so one read gets those of the piece; parse_entry reads
    // for itself what a strange file has elsewhere.
    const uint64_t paths_at = get<uint64_t>(&bytes[24]);
    const uint8_t* last = &bytes[size_t((n - 1) * kVideoSize)];
    const uint64_t paths_end = get<uint64_t>(last + 24) + get<uint32_t>(last + 48);
    paths.clear();
    if (paths_at <= paths_end && paths_end <= uint64_t(paths_.size)) {
      paths.resize(size_t(std::min<uint64_t>(paths_end - paths_at, 64 << 20)));
      file_->read(paths_.offset + int64_t(paths_at), paths);
    }
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t index = uint32_t(first + i);
      Entry entry = parse_entry(&bytes[size_t(i * kVideoSize)], index, paths, paths_at);
      entry.summary.file.content_hash = get<uint64_t>(&content[size_t(i * 8)]);
      visit(index, entry.summary);
    }
  }
}

std::vector<uint64_t> Catalogue::content_hashes() const {
  const std::vector<uint8_t> bytes = read_section(content_, "the content hashes");
  std::vector<uint64_t> hashes(bytes.size() / 8);
  for (size_t i = 0; i < hashes.size(); ++i) hashes[i] = get<uint64_t>(&bytes[8 * i]);
  return hashes;
}

std::vector<uint8_t> Catalogue::record_of(const Entry& entry, uint32_t index) const {
  std::vector<uint8_t> bytes(entry.record_size);
  file_->read(records_.offset + int64_t(entry.record_offset), bytes);
  if (!checksum_holds(bytes, entry.record_hash))
    damaged(path_, fmt::format("checksum of video {}", index));
  return bytes;
}

std::vector<uint8_t> Catalogue::record(uint32_t index) const {
  return record_of(entry(index), index);
}

std::shared_ptr<const Video> Catalogue::video(uint32_t index) const {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = cache_.find(index); found != cache_.end()) return found->second;
  }
  const Entry place = entry(index);
  auto video = std::make_shared<Video>(parse_video(record_of(place, index), path_));
  video->file.path = place.summary.file.path;
  std::lock_guard lock(mutex_);
  if (cached_packets_ > kMostCachedPackets) {
    cache_.clear();
    cached_packets_ = 0;
  }
  if (cache_.emplace(index, video).second) cached_packets_ += video->table.packet_count();
  return video;
}

}  // namespace keiko::data
