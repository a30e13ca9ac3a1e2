#include "data/pack_member.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "media/clip_decoder.h"
#include "media/packet_reader.h"
#include "media/quality.h"
#include "media/remux.h"
#include "media/video_encoder.h"

namespace keiko::data {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostCompared = 64;                // frames of an item
constexpr int64_t kMostComparedBytes = 64ll << 20;  // of luma kept for that

constexpr int64_t kLargestMember = (int64_t{1} << 33) - 1;  // bytes; what a tar header can say

// Every packet of the video stream that lies, in file order, in the item's share. Good enough for a
// total; whole videos count exactly.
int64_t video_bytes(const Video& video, const Item& item) {
  int64_t sum = 0;
  for (const uint32_t size : video.table.size) sum += size;
  return int64_t(double(sum) * double(item.frame_count) / double(video.table.frame_count()));
}

void describe_source(const Video& video, const Item& item, PackTotals& t) {
  t.items = 1;
  t.source_bytes = int64_t(double(video.file.size) * double(item.frame_count) /
                           double(video.table.frame_count()));
  t.source_video_bytes = video_bytes(video, item);
  t.source_frames = item.frame_count;
  t.turned = video.table.stream.rotation != 0;
}

// Luma planes of a few pictures, kept while an item is encoded.
class Samples {
 public:
  // Of `count` pictures of this size.
  Samples(size_t count, const media::ScaledFormat& format, bool wanted)
      : width_(format.width), height_(format.height) {
    const int64_t plane = int64_t(width_) * height_;
    const size_t n = std::min({kMostCompared, count, size_t(kMostComparedBytes / plane) + 1});
    for (size_t i = 0; wanted && i < n; ++i) kept_[int64_t(i * count / n)];
  }
  void offer(int64_t index, const AVFrame& picture) {
    const auto found = kept_.find(index);
    if (found == kept_.end()) return;
    for (int y = 0; y < height_; ++y) {
      const uint8_t* row = picture.data[0] + int64_t(y) * picture.linesize[0];
      found->second.insert(found->second.end(), row, row + width_);
    }
  }
  PackQuality compare(Env* env, const media::PacketTable& table, const std::string& path,
                      const std::function<void()>& working) {
    PackQuality q;
    std::vector<int64_t> frames;
    for (const auto& [index, luma] : kept_) frames.push_back(index);
    if (frames.empty()) return q;
    q.items = 1;
    media::decode_in_order(
        env, table, path, frames, media::Damage::kRefuse, [&](int64_t index, const AVFrame& frame) {
          const media::Plane a{kept_.at(index).data(), width_, width_, height_};
          const media::Plane b{frame.data[0], frame.linesize[0], frame.width, frame.height};
          q.squared_error += media::mean_squared_error(a, b);
          q.similarity += media::structural_similarity(a, b);
          ++q.frames;
          if (working) working();
        });
    return q;
  }

 private:
  int width_, height_;
  std::map<int64_t, std::vector<uint8_t>> kept_;  // by the picture's index in the member
};

// The member must fit into a shard and be as fast to read as packs promise.
void check_member(const media::PacketTable& table, const std::string& path, int64_t bytes) {
  if (bytes > kLargestMember)
    fail(ErrorKind::kData,
         "{}: the packed file of {} bytes is more than a tar shard can hold (8 GiB); "
         "cut the film into shorter items",
         path, bytes);
  if (!table.direct_read)
    fail(ErrorKind::kData, "{}: the packed file cannot be read directly ({})", path,
         table.direct_read_off);
}

void encode_member(Env* env, const Video& video, const Item& item, const PackChoice& choice,
                   const std::string& parts, const std::string& name, bool with_quality,
                   const std::function<void()>& working, PackPart& part) {
  const media::PacketTable& table = video.table;
  const FrameChoice frames = choose_frames(table, item, choice.frames_per_second);
  media::VideoEncoderOptions o;
  o.profile =
      choice.purpose == "size" ? media::EncoderProfile::kSmall : media::EncoderProfile::kFast;
  o.format = media::scaled_format(table.stream, choice.short_side);
  o.rotation = table.stream.rotation;
  o.time_base = {int(frames.time_base_num), int(frames.time_base_den)};
  o.frame_rate = {int(frames.rate_num), int(frames.rate_den)};
  o.crf = choice.crf;
  o.gop = choice.gop;
  Samples samples(frames.frames.size(), o.format, with_quality);
  media::FrameScaler scaler(table.stream, o.format);
  part.file = name + ".mp4";
  const std::string path = parts + "/" + part.file;
  media::VideoEncoder encoder(env, path, o);
  size_t k = 0;
  media::decode_in_order(env, table, video.file.path, frames.frames, media::Damage::kRefuse,
                         [&](int64_t, const AVFrame& frame) {
                           const AVFrame& picture = scaler.scale(frame);
                           samples.offer(int64_t(k), picture);
                           encoder.add(picture, frames.pts[k]);
                           ++k;
                           if (working) working();
                         });
  part.bytes = encoder.finish();
  part.hash = xxh3_of_file(path, env);
  part.frame_count = int64_t(frames.frames.size());
  const media::PacketTable packed = media::scan_video(path, env);
  check_member(packed, path, part.bytes);
  if (packed.frame_count() != part.frame_count || !packed.skipping)
    fail(ErrorKind::kInternal, "{}: {} frames were encoded, {} are there ({})", path,
         part.frame_count, packed.frame_count(), packed.skipping_off);
  part.totals.quality = samples.compare(env, packed, path, working);

  const media::StreamParameters& s = table.stream;
  part.totals.resized = o.format.width != s.width || o.format.height != s.height;
  part.totals.fewer_frames = part.frame_count < item.frame_count;
  if (const auto* d = av_pix_fmt_desc_get(av_get_pix_fmt(s.pixel_format.c_str()))) {
    part.totals.fewer_bits = d->comp[0].depth > 8;
    part.totals.less_chroma =
        d->nb_components >= 3 && (d->log2_chroma_w == 0 || d->log2_chroma_h == 0);
  }
}

void copy_member(Env* env, const Video& video, const Item& item, const std::string& parts,
                 const std::string& name, bool with_quality, const std::function<void()>& working,
                 PackPart& part) {
  const media::CutVideo cut = media::cut_video(env, video.table, video.file.path, item.first_frame,
                                               item.frame_count, parts + "/" + name, working);
  const std::string& path = cut.path;
  part.file = path.substr(parts.size() + 1);
  part.bytes = cut.bytes;
  part.hash = xxh3_of_file(path, env);
  part.frame_count = item.frame_count;
  const media::PacketTable packed = media::scan_video(path, env);
  check_member(packed, path, part.bytes);
  part.first_frame =
      media::locate_cut(video.table, item.first_frame, item.frame_count, cut, packed);
  // A copy must show what the source shows, damage and all. The same packets do; where a container
  // rewrites them, the frames themselves are compared.
  // What travels beside the packets (new codec parameters) does not travel with a copy.
  bool same_packets = video.table.direct_read && video.table.reuse_off.empty() &&
                      packed.stream.extradata == video.table.stream.extradata;
  for (uint32_t i = 0; same_packets && i < cut.packet_count; ++i)
    same_packets = packed.size[i] == video.table.size[cut.first_packet + i];
  if (!same_packets || with_quality) {
    std::vector<int64_t> frames(static_cast<size_t>(item.frame_count));
    std::vector<std::string> truth;
    for (size_t i = 0; i < frames.size(); ++i) frames[i] = item.first_frame + int64_t(i);
    media::decode_in_order(env, video.table, video.file.path, frames, media::Damage::kAccept,
                           [&](int64_t, const AVFrame& frame) {
                             truth.push_back(media::raw_md5(frame));
                             if (working) working();
                           });
    for (int64_t& frame : frames) frame += part.first_frame - item.first_frame;
    size_t next = 0;
    media::decode_in_order(
        env, packed, path, frames, media::Damage::kAccept,
        [&](int64_t index, const AVFrame& frame) {
          if (working) working();
          if (media::raw_md5(frame) != truth[next++])
            fail(ErrorKind::kData,
                 "{}: frame {} of the copy differs from the source; pack with --for size instead",
                 video.file.path, index - part.first_frame + item.first_frame);
        });
    part.totals.quality = {1, item.frame_count, 0, double(item.frame_count)};
  }
}

ordered_json to_json(const PackTotals& t) {
  return {{"items", t.items},
          {"source_bytes", t.source_bytes},
          {"source_video_bytes", t.source_video_bytes},
          {"packed_bytes", t.packed_bytes},
          {"source_frames", t.source_frames},
          {"packed_frames", t.packed_frames},
          {"resized", t.resized},
          {"fewer_frames", t.fewer_frames},
          {"fewer_bits", t.fewer_bits},
          {"less_chroma", t.less_chroma},
          {"turned", t.turned},
          {"compared_items", t.quality.items},
          {"compared_frames", t.quality.frames},
          {"squared_error", t.quality.squared_error},
          {"similarity", t.quality.similarity}};
}

PackTotals from_json(const nlohmann::json& j) {
  return {
      j.at("items"),
      j.at("source_bytes"),
      j.at("source_video_bytes"),
      j.at("packed_bytes"),
      j.at("source_frames"),
      j.at("packed_frames"),
      j.at("resized"),
      j.at("fewer_frames"),
      j.at("fewer_bits"),
      j.at("less_chroma"),
      j.at("turned"),
      {j.at("compared_items"), j.at("compared_frames"), j.at("squared_error"), j.at("similarity")}};
}

}  // namespace

void PackQuality::add(const PackQuality& other) {
  items += other.items;
  frames += other.frames;
  squared_error += other.squared_error;
  similarity += other.similarity;
}

void PackTotals::add(const PackTotals& other) {
  items += other.items;
  source_bytes += other.source_bytes;
  source_video_bytes += other.source_video_bytes;
  packed_bytes += other.packed_bytes;
  source_frames += other.source_frames;
  packed_frames += other.packed_frames;
  resized += other.resized;
  fewer_frames += other.fewer_frames;
  fewer_bits += other.fewer_bits;
  less_chroma += other.less_chroma;
  turned += other.turned;
  quality.add(other.quality);
}

PackPart make_member(Env* env, const Video& video, const Item& item, int64_t index,
                     const PackChoice& choice, const std::string& parts, bool with_quality,
                     const std::function<void()>& working) {
  PackPart part;
  part.item = index;
  describe_source(video, item, part.totals);
  const std::string name = member_name(index, video.file.path);
  if (choice.is_exact())
    copy_member(env, video, item, parts, name, with_quality, working, part);
  else
    encode_member(env, video, item, choice, parts, name, with_quality, working, part);
  part.totals.packed_bytes = part.bytes;
  part.totals.packed_frames = part.frame_count;
  return part;
}

void write_part(Env* env, const std::string& parts, const std::string& name, const PackPart& part) {
  const ordered_json j = {{"item", part.item},
                          {"skipped", part.skipped},
                          {"file", part.file},
                          {"bytes", part.bytes},
                          {"hash", part.hash},
                          {"first_frame", part.first_frame},
                          {"frame_count", part.frame_count},
                          {"totals", to_json(part.totals)}};
  publish(env, parts + "/" + name + ".json", json_text(j) + "\n");
}

bool read_part(Env* env, const std::string& parts, const std::string& name, PackPart& part) {
  const std::string path = parts + "/" + name + ".json";
  if (!env->status(path).exists) return false;
  const auto j = nlohmann::json::parse(read_text(env, path), nullptr, false);
  try {
    part = {j.at("item"), j.at("skipped"),     j.at("file"),        j.at("bytes"),
            j.at("hash"), j.at("first_frame"), j.at("frame_count"), from_json(j.at("totals"))};
  } catch (const nlohmann::json::exception&) {
    return false;  // written by another version: made again
  }
  return !part.skipped.empty() || env->status(parts + "/" + part.file).size == part.bytes;
}

std::string totals_to_text(const PackTotals& totals) { return json_text(to_json(totals)); }
PackTotals totals_from_text(const std::string& text) {
  try {
    return from_json(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kData, "not the totals of a shard: {}", e.what());
  }
}

}  // namespace keiko::data
