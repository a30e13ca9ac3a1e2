// Builds a PacketTable: see packet_table.h.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

extern "C" {
#include <libavutil/display.h>
#include <libavutil/pixdesc.h>
}

#include "base/env.h"
#include "base/error.h"
#include "media/demux.h"
#include "media/limits.h"
#include "media/packet_facts.h"
#include "media/packet_table.h"
#include "media/trial.h"

namespace keiko::media {
namespace {

int rotation_of(const AVStream* stream) {
  const int32_t* matrix = display_matrix(stream);
  if (matrix == nullptr) return 0;
  const double counterclockwise = av_display_rotation_get(matrix);
  if (std::isnan(counterclockwise)) return 0;
  const int clockwise = int(std::lround(-counterclockwise / 90.0)) * 90;
  return ((clockwise % 360) + 360) % 360;
}

StreamParameters describe(const AVFormatContext* input, const AVStream* stream) {
  const AVCodecParameters* codec = stream->codecpar;
  StreamParameters s;
  s.stream_index = stream->index;
  s.format_name = input->iformat->name;
  s.codec = avcodec_get_name(codec->codec_id);
  const char* format = av_get_pix_fmt_name(AVPixelFormat(codec->format));
  s.pixel_format = format == nullptr ? "" : format;
  s.codec_tag = codec->codec_tag;
  s.profile = codec->profile;
  s.level = codec->level;
  s.width = codec->width;
  s.height = codec->height;
  const AVRational aspect = stream->sample_aspect_ratio.num > 0 ? stream->sample_aspect_ratio
                                                                : codec->sample_aspect_ratio;
  if (aspect.num > 0 && aspect.den > 0) {
    s.sample_aspect_num = aspect.num;
    s.sample_aspect_den = aspect.den;
  }
  s.rotation = rotation_of(stream);
  s.color_range = known_value(codec->color_range, AVCOL_RANGE_NB, AVCOL_RANGE_UNSPECIFIED);
  s.color_primaries = known_value(codec->color_primaries, AVCOL_PRI_NB, AVCOL_PRI_UNSPECIFIED);
  s.color_transfer = known_value(codec->color_trc, AVCOL_TRC_NB, AVCOL_TRC_UNSPECIFIED);
  s.color_space = known_value(codec->color_space, AVCOL_SPC_NB, AVCOL_SPC_UNSPECIFIED);
  s.chroma_location =
      known_value(codec->chroma_location, AVCHROMA_LOC_NB, AVCHROMA_LOC_UNSPECIFIED);
  s.field_order = known_value(codec->field_order, AV_FIELD_BT + 1, AV_FIELD_UNKNOWN);
  s.reorder_depth = codec->video_delay;
  s.bits_per_raw_sample = codec->bits_per_raw_sample;
  s.extradata.assign(codec->extradata, codec->extradata + codec->extradata_size);
  s.time_base_num = stream->time_base.num;
  s.time_base_den = stream->time_base.den;
  if (stream->avg_frame_rate.num > 0 && stream->avg_frame_rate.den > 0) {
    s.frame_rate_num = stream->avg_frame_rate.num;
    s.frame_rate_den = stream->avg_frame_rate.den;
  }
  return s;
}

int64_t time_or_none(int64_t ticks) { return ticks == AV_NOPTS_VALUE ? kNoTime : ticks; }

// Where `packet` lies in the file. MP4 says exactly; Matroska gives the start of the block, and the
// frame begins a few bytes later. -1 when the bytes are not there as they are.
int64_t locate(const ReadableFile& file, const AVPacket& packet, std::vector<uint8_t>& scratch) {
  constexpr int64_t kLongestHeader = 64;
  if (packet.pos < 0 || packet.pos > file.size() - packet.size) return -1;
  const int64_t available =
      std::min<int64_t>(packet.size + kLongestHeader, file.size() - packet.pos);
  scratch.resize(size_t(available));
  file.read(packet.pos, scratch);
  for (int64_t shift = 0; shift + packet.size <= available; ++shift)
    if (std::memcmp(scratch.data() + shift, packet.data, size_t(packet.size)) == 0)
      return packet.pos + shift;
  return -1;
}

// What the packets' own bytes say of a whole stream.
struct StreamFacts {
  bool are_known = true;            // every packet was understood
  bool has_fields = false;          // pictures made of two fields that are coded apart
  bool changes_parameters = false;  // the extradata does not hold all parameter sets
  bool has_open_gops = false;       // the container calls packets key frames that are none by rule
  int highest_layer = 0;
  std::vector<int8_t> shown_frames;  // of each packet, -1: not known
  std::vector<int8_t> layer;         // HEVC temporal id of each packet
};

bool container_gives_every_time(const std::string& format_name) {
  return format_name.find("mp4") != std::string::npos ||
         format_name.find("matroska") != std::string::npos;
}

// True when the frames follow from the packets alone: each shown one has its own time, every key
// frame is a true one, no picture is split over packets, and the file is whole.
bool frames_follow_from_packets(const PacketTable& table, const StreamFacts& facts) {
  if (!container_gives_every_time(table.stream.format_name)) return false;
  if (!facts.are_known || facts.has_fields || facts.has_open_gops || facts.changes_parameters)
    return false;
  if (table.corrupt_packets > 0 || !(table.flags[0] & kRandomAccess)) return false;
  std::vector<int64_t> times;
  for (size_t i = 0; i < table.size.size(); ++i) {
    if (facts.shown_frames[i] < 0 || facts.shown_frames[i] > 1) return false;
    if (facts.shown_frames[i] == 0) continue;
    if (table.pts[i] == kNoTime) return false;
    times.push_back(table.pts[i]);
  }
  std::sort(times.begin(), times.end());
  return std::adjacent_find(times.begin(), times.end()) == times.end();
}

void conclude_frames(PacketTable& table, const StreamFacts& facts) {
  for (uint32_t i = 0; i < table.size.size(); ++i)
    if (!(table.flags[i] & kDiscard) && facts.shown_frames[i] == 1) table.frame_packet.push_back(i);
  std::sort(table.frame_packet.begin(), table.frame_packet.end(),
            [&](uint32_t a, uint32_t b) { return table.pts[a] < table.pts[b]; });
}

// Says which droppable packets may be left out, or why none.
void decide_skipping(PacketTable& table, const StreamFacts& facts, bool has_rules) {
  const std::string& codec = table.stream.codec;
  if (!has_rules)
    table.skipping_off = fmt::format("which {} packets are droppable is not known", codec);
  else if (codec == "vp8" || codec == "vp9")
    table.skipping_off = fmt::format("in {} every packet changes what the next starts from", codec);
  else if (facts.has_fields)
    table.skipping_off = "field pictures";
  else if (!facts.are_known)
    table.skipping_off = fmt::format("some packets are not whole {} units", codec);
  else
    table.skipping = true;
  for (size_t i = 0; i < table.flags.size(); ++i)
    if (!table.skipping || facts.layer[i] < facts.highest_layer)
      table.flags[i] &= uint8_t(~kDroppable);
}

// Dts of frames only need sorting. Where pts go back (recordings put behind each other), time goes
// on with the last step seen instead, so that a moment names one frame.
void make_ascending(std::vector<int64_t>& times, bool sort) {
  if (sort) std::sort(times.begin(), times.end());
  // Unsigned, because a hostile file may hold any number; what wraps is nonsense anyhow.
  uint64_t step = 1, shift = 0;
  for (size_t f = 1; f < times.size(); ++f) {
    const uint64_t before = uint64_t(times[f - 1]);
    if (int64_t(uint64_t(times[f]) + shift) < times[f - 1])
      shift = before + step - uint64_t(times[f]);
    times[f] = std::max(times[f - 1], int64_t(uint64_t(times[f]) + shift));
    if (times[f] > times[f - 1]) step = uint64_t(times[f]) - before;
  }
}

// Why a decoder must be opened afresh for every clip of the stream; empty when it need not. What a
// flush leaves behind is known for codecs whose points to start from reset everything but parameter
// sets, and those must be the extradata's.
std::string why_no_reuse(const StreamParameters& stream, const StreamFacts& facts) {
  static const std::set<std::string> kForgetful = {"h264", "hevc", "vp8", "vp9", "av1"};
  if (!kForgetful.contains(stream.codec))
    return fmt::format("what a {} decoder keeps from before is not known", stream.codec);
  if (facts.changes_parameters) return "the codec parameters change inside the stream";
  if (stream.codec == "h264" && stream.profile >= 244)
    return "what an x264 says of itself changes how lossless 4:4:4 is decoded";
  return "";
}

// Decodes the file to see its frames, and tries the shortcuts that no rule promises.
void find_out_by_decoding(Env* env, const std::string& path, PacketTable& table) {
  table.mapped_by_decoding = true;
  // Candidates, each to be tried.
  for (uint8_t& flags : table.flags)
    if (flags & kKeyPacket) flags |= kRandomAccess;
  const Sighting seen = watch_decoder(env, path, table);
  table.frame_packet = seen.packet;
  std::vector<uint32_t> sorted = seen.packet;
  std::sort(sorted.begin(), sorted.end());
  const bool is_one_to_one = std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  if (!seen.is_numbered || !is_one_to_one) {
    // Frames are told apart by counting from the start.
    for (size_t i = 1; i < table.flags.size(); ++i)
      table.flags[i] &= uint8_t(~(kRandomAccess | kDroppable));
    if (table.skipping) {
      table.skipping = false;
      table.skipping_off = "some packets give more than one frame";
    }
  }
  complete_table(table);
  if (!table.frame_packet.empty()) try_shortcuts(env, path, seen, table);
}

}  // namespace

double StreamParameters::display_width() const {
  const double w = double(width) * sample_aspect_num / sample_aspect_den;
  return rotation % 180 == 0 ? w : height;
}
double StreamParameters::display_height() const {
  const double w = double(width) * sample_aspect_num / sample_aspect_den;
  return rotation % 180 == 0 ? height : w;
}

void complete_table(PacketTable& table) {
  const size_t packets = table.size.size(), frames = table.frame_packet.size();
  table.frame_pts.assign(frames, kNoTime);
  bool all_pts = true, all_dts = true;
  for (uint32_t p : table.frame_packet) {
    all_pts &= table.pts[p] != kNoTime;
    all_dts &= table.dts[p] != kNoTime;
  }
  if (all_pts || all_dts) {
    for (size_t f = 0; f < frames; ++f)
      table.frame_pts[f] = (all_pts ? table.pts : table.dts)[table.frame_packet[f]];
    make_ascending(table.frame_pts, /*sort=*/!all_pts);
  } else {
    const StreamParameters& s = table.stream;
    const bool has_rate = s.frame_rate_num > 0 && s.time_base_num > 0;
    const double ticks = has_rate ? double(s.frame_rate_den) * double(s.time_base_den) /
                                        (double(s.frame_rate_num) * double(s.time_base_num))
                                  : 1;
    constexpr double kLatest = 4e18;  // a hostile rate may be one frame in a million years
    for (size_t f = 0; f < frames; ++f)
      table.frame_pts[f] = int64_t(std::min(double(f) * ticks, kLatest));
  }

  table.frame_start.clear();
  table.frame_last.clear();
  table.frame_turn.clear();
  if (!table.mapped_by_decoding) return;
  std::vector<uint32_t> shown_at(packets, UINT32_MAX), last(packets), count(packets), points;
  bool repeats = false;
  table.frame_turn.resize(frames);
  for (uint32_t f = 0; f < frames; ++f) {
    const uint32_t p = table.frame_packet[f];
    if (shown_at[p] == UINT32_MAX) shown_at[p] = f;
    table.frame_turn[f] = count[p]++;
    repeats |= table.frame_turn[f] > 0;
  }
  if (!repeats) table.frame_turn.clear();
  for (size_t p = packets; p-- > 0;) {
    const bool continues =
        p + 1 < packets && !(table.flags[p + 1] & kRandomAccess) && shown_at[p + 1] == UINT32_MAX;
    last[p] = continues ? last[p + 1] : uint32_t(p);
  }
  // Decoding for a frame starts at the last point at or before its packet that is not shown after
  // it. `points` holds those that may still be the answer, shown ever later: one look each, even
  // where a hostile table shows its packets in the worst order.
  std::vector<uint32_t> by_packet(frames);
  std::iota(by_packet.begin(), by_packet.end(), 0u);
  std::sort(by_packet.begin(), by_packet.end(),
            [&](uint32_t a, uint32_t b) { return table.frame_packet[a] < table.frame_packet[b]; });
  table.frame_start.resize(frames);
  table.frame_last.resize(frames);
  uint32_t next = 0;
  for (uint32_t f : by_packet) {
    const uint32_t packet = table.frame_packet[f];
    for (; next <= packet; ++next) {
      if (!(table.flags[next] & kRandomAccess) || shown_at[next] == UINT32_MAX) continue;
      while (!points.empty() && shown_at[points.back()] >= shown_at[next]) points.pop_back();
      points.push_back(next);
    }
    const auto after =
        std::upper_bound(points.begin(), points.end(), f,
                         [&](uint32_t frame, uint32_t point) { return frame < shown_at[point]; });
    table.frame_start[f] = after == points.begin() ? 0 : *std::prev(after);
    table.frame_last[f] = last[packet];
  }
}

PacketTable scan_video(const std::string& path, Env* env) {
  const auto file = env->open(path);
  if (file->size() == 0) fail(ErrorKind::kData, "{}: the file is empty", path);
  Demuxer demuxer(env, path, Demuxer::kBestVideo);
  PacketTable table;
  table.stream = describe(demuxer.input(), demuxer.stream());
  const std::string codec = table.stream.codec;
  if (table.stream.width <= 0 || table.stream.height <= 0)
    fail(ErrorKind::kData, "{}: the {} stream has no picture size; the file is probably torn", path,
         codec);
  if (avcodec_find_decoder(demuxer.stream()->codecpar->codec_id) == nullptr)
    fail(ErrorKind::kData, "{}: this FFmpeg has no decoder for {}", path, codec);

  table.direct_read = true;
  const std::unique_ptr<HeaderReader> reader = make_header_reader(table.stream);
  StreamFacts stream_facts;
  std::vector<uint8_t> scratch;
  int64_t total = 0;
  while (const AVPacket* packet = demuxer.next()) {
    total += packet->size + kTableBytesPerPacket;
    if (total > kFreeBytes && total / kMostBytesPerByte > file->size())
      fail(ErrorKind::kData,
           "{}: its first {} packets take {} bytes, more than {} times the file; its index is "
           "damaged",
           path, table.size.size() + 1, total, kMostBytesPerByte);
    uint8_t flags = packet->flags & AV_PKT_FLAG_KEY ? kKeyPacket : 0;
    if (packet->flags & AV_PKT_FLAG_DISCARD) flags |= kDiscard;
    PacketFacts facts;
    if (reader) facts = reader->read({packet->data, size_t(packet->size)});
    if (facts.is_random_access) flags |= kRandomAccess;
    if (facts.is_unreferenced) flags |= kDroppable;
    stream_facts.are_known &= facts.is_readable;
    stream_facts.has_fields |= facts.is_field;
    stream_facts.changes_parameters |= facts.changes_parameters;
    stream_facts.has_open_gops |= (flags & kKeyPacket) && !(flags & kRandomAccess);
    stream_facts.highest_layer = std::max(stream_facts.highest_layer, facts.temporal_id);
    stream_facts.shown_frames.push_back(int8_t(std::min(facts.shown_frames, 2)));
    stream_facts.layer.push_back(int8_t(facts.temporal_id));
    int64_t position = -1;
    // What travels beside the bytes is lost to direct reads.
    std::string reason;
    if (av_packet_get_side_data(packet, AV_PKT_DATA_NEW_EXTRADATA, nullptr) != nullptr) {
      stream_facts.changes_parameters = true;
      reason = fmt::format("packet {} changes the codec parameters", table.size.size());
    } else if (av_packet_get_side_data(packet, AV_PKT_DATA_PALETTE, nullptr) != nullptr) {
      stream_facts.are_known = false;
      reason = fmt::format("packet {} changes the palette", table.size.size());
    } else if (table.direct_read) {
      position = locate(*file, *packet, scratch);
      if (position < 0)
        reason = fmt::format("the bytes of packet {} do not lie in the file as they are",
                             table.size.size());
    }
    if (table.direct_read && !reason.empty()) {
      table.direct_read = false;
      table.direct_read_off = reason;
    }
    table.position.push_back(position);
    table.size.push_back(uint32_t(packet->size));
    table.pts.push_back(time_or_none(packet->pts));
    table.dts.push_back(time_or_none(packet->dts));
    table.flags.push_back(flags);
  }
  table.corrupt_packets = demuxer.corrupt_packets();
  if (table.size.empty())
    fail(ErrorKind::kData, "{}: the {} stream holds no packet; the file is probably torn", path,
         codec);
  if (!table.direct_read) std::fill(table.position.begin(), table.position.end(), -1);

  decide_skipping(table, stream_facts, reader != nullptr);
  table.reuse_off = why_no_reuse(table.stream, stream_facts);
  if (reader && reader->is_conclusive() && frames_follow_from_packets(table, stream_facts)) {
    conclude_frames(table, stream_facts);
    complete_table(table);
  } else {
    find_out_by_decoding(env, path, table);
  }
  if (table.frame_packet.empty())
    fail(ErrorKind::kData, "{}: none of its {} packets gives a picture", path, table.size.size());
  return table;
}

}  // namespace keiko::media
