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
#include "media/frame_decoder.h"
#include "media/nal.h"
#include "media/packet_table.h"

namespace keiko::media {
namespace {

int rotation_of(const AVStream* stream) {
  const auto* matrix = reinterpret_cast<const int32_t*>(
      av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
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
  s.color_range = codec->color_range;
  s.color_primaries = codec->color_primaries;
  s.color_transfer = codec->color_trc;
  s.color_space = codec->color_space;
  s.chroma_location = codec->chroma_location;
  s.field_order = codec->field_order;
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
  if (packet.pos < 0 || packet.pos + packet.size > file.size()) return -1;
  const int64_t available =
      std::min<int64_t>(packet.size + kLongestHeader, file.size() - packet.pos);
  scratch.resize(size_t(available));
  file.read(packet.pos, scratch);
  for (int64_t shift = 0; shift + packet.size <= available; ++shift)
    if (std::memcmp(scratch.data() + shift, packet.data, size_t(packet.size)) == 0)
      return packet.pos + shift;
  return -1;
}

// The codecs whose key flag is a promise: nothing before such a packet is needed after it.
bool key_flag_is_exact(const std::string& codec) {
  static const std::set<std::string> kCodecs = {
      "vp8",        "vp9",   "av1",      "mjpeg", "prores",  "dnxhd",   "mpeg2video",
      "mpeg1video", "mpeg4", "rawvideo", "ffv1",  "huffyuv", "utvideo", "png"};
  return kCodecs.contains(codec);
}

bool is_h26x(const std::string& codec) { return codec == "h264" || codec == "hevc"; }

// Frames follow from packets alone when the container gives every packet its own pts, the first one
// is a random-access point, and no picture is split over packets.
bool frames_follow_from_packets(const PacketTable& table, bool saw_field, bool all_readable) {
  const std::string& container = table.stream.format_name;
  const bool has_index =
      container.find("mp4") != std::string::npos || container.find("matroska") != std::string::npos;
  if (!has_index || !is_h26x(table.stream.codec) || saw_field || !all_readable) return false;
  if (table.corrupt_packets > 0) return false;
  for (int64_t i = 0; i < table.packet_count(); ++i) {
    if (table.pts[i] == kNoTime) return false;
    const bool is_key = table.flags[i] & kKeyPacket;
    const bool is_idr = table.flags[i] & kRandomAccess;
    if (is_key && !is_idr) return false;  // an open GOP: leading pictures may not come out
    if (i == 0 && !is_idr) return false;
  }
  std::vector<int64_t> sorted = table.pts;
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}

void conclude_frames(PacketTable& table) {
  std::vector<uint32_t> shown;
  for (uint32_t i = 0; i < table.size.size(); ++i)
    if (!(table.flags[i] & kDiscard)) shown.push_back(i);
  std::sort(shown.begin(), shown.end(),
            [&](uint32_t a, uint32_t b) { return table.pts[a] < table.pts[b]; });
  table.frame_packet = shown;
}

// Decodes everything once and notes which packet each frame came from.
void observe_frames(const std::string& path, PacketTable& table) {
  table.mapped_by_decoding = true;
  FrameDecoder decoder(table.stream);
  Demuxer demuxer(path, table.stream.stream_index);
  uint32_t ordinal = 0;
  auto note = [&](uint32_t packet, const AVFrame&) { table.frame_packet.push_back(packet); };
  while (const AVPacket* packet = demuxer.next()) {
    if (ordinal >= table.size.size()) break;
    decoder.feed({packet->data, size_t(packet->size)}, ordinal,
                 (packet->flags & AV_PKT_FLAG_DISCARD) != 0, note);
    ++ordinal;
  }
  decoder.drain(note);
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

PacketTable scan_video(const std::string& path) {
  const auto file = default_env()->open(path);
  if (file->size() == 0) fail(ErrorKind::kData, "{}: the file is empty", path);
  Demuxer demuxer(path, Demuxer::kBestVideo);
  PacketTable table;
  table.stream = describe(demuxer.input(), demuxer.stream());
  const std::string codec = table.stream.codec;
  if (table.stream.width <= 0 || table.stream.height <= 0)
    fail(ErrorKind::kData, "{}: the {} stream has no picture size; the file is probably torn", path,
         codec);
  if (avcodec_find_decoder(demuxer.stream()->codecpar->codec_id) == nullptr)
    fail(ErrorKind::kData, "{}: this FFmpeg has no decoder for {}", path, codec);

  table.direct_read = true;
  bool saw_field = false, all_readable = true;
  std::unique_ptr<AVCodecParserContext, decltype(&av_parser_close)> parser(
      is_h26x(codec) ? av_parser_init(demuxer.stream()->codecpar->codec_id) : nullptr,
      av_parser_close);
  if (parser) parser->flags |= PARSER_FLAG_COMPLETE_FRAMES;
  const CodecPointer parser_context = make_codec_context(table.stream);
  std::vector<uint8_t> scratch;

  while (const AVPacket* packet = demuxer.next()) {
    uint8_t flags = packet->flags & AV_PKT_FLAG_KEY ? kKeyPacket : 0;
    if (packet->flags & AV_PKT_FLAG_DISCARD) flags |= kDiscard;
    if (is_h26x(codec)) {
      const NalSummary nal =
          summarize_packet(codec, table.stream.extradata, {packet->data, size_t(packet->size)});
      all_readable &= nal.is_readable && nal.has_slices;
      if (nal.all_slices_idr) flags |= kRandomAccess;
      if (nal.all_slices_unreferenced) flags |= kDroppable;
      if (codec == "h264") {
        uint8_t* out = nullptr;
        int out_size = 0;
        av_parser_parse2(parser.get(), parser_context.get(), &out, &out_size, packet->data,
                         packet->size, packet->pts, packet->dts, packet->pos);
        saw_field |= parser->picture_structure == AV_PICTURE_STRUCTURE_TOP_FIELD ||
                     parser->picture_structure == AV_PICTURE_STRUCTURE_BOTTOM_FIELD;
      }
    } else if ((flags & kKeyPacket) && key_flag_is_exact(codec)) {
      flags |= kRandomAccess;
    }
    int64_t position = -1;
    if (table.direct_read) {
      position = locate(*file, *packet, scratch);
      if (position < 0) {
        table.direct_read = false;
        table.direct_read_off = fmt::format(
            "the bytes of packet {} do not lie in the file as they are", table.size.size());
      } else if (av_packet_get_side_data(packet, AV_PKT_DATA_NEW_EXTRADATA, nullptr) != nullptr) {
        table.direct_read = false;
        table.direct_read_off =
            fmt::format("packet {} changes the codec parameters", table.size.size());
      }
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

  if (frames_follow_from_packets(table, saw_field, all_readable)) {
    conclude_frames(table);
  } else {
    observe_frames(path, table);
  }
  if (codec != "h264") {
    table.skipping_off = "which packets are droppable is only known for H.264";
  } else if (saw_field || !all_readable) {
    table.skipping_off = saw_field ? "field pictures" : "packets that are not whole NAL units";
  } else {
    table.skipping = true;
  }
  if (!table.skipping)
    for (uint8_t& flags : table.flags) flags &= uint8_t(~kDroppable);
  for (uint32_t packet : table.frame_packet) table.frame_pts.push_back(table.pts[packet]);
  if (table.frame_packet.empty())
    fail(ErrorKind::kData, "{}: none of its {} packets gives a picture", path, table.size.size());
  return table;
}

}  // namespace keiko::media
