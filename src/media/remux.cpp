#include "media/remux.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "base/error.h"
#include "media/decode_plan.h"
#include "media/frame_decoder.h"
#include "media/packet_reader.h"
#include "media/video_writer.h"

namespace keiko::media {
namespace {

struct Times {
  std::vector<int64_t> pts, dts;  // of the packets copied
  AVRational time_base{1, 25};
};

// Decode times are made anew from the presentation times, so that every container's rules hold
// whatever the source's container said: the i-th smallest pts, moved back by the reorder delay.
void derive_dts(Times& t) {
  const size_t n = t.pts.size();
  std::vector<int64_t> sorted = t.pts;
  std::sort(sorted.begin(), sorted.end());
  size_t delay = 0;
  for (size_t i = 0; i < n; ++i) {
    const size_t rank =
        size_t(std::lower_bound(sorted.begin(), sorted.end(), t.pts[i]) - sorted.begin());
    if (i > rank) delay = std::max(delay, i - rank);
  }
  t.dts.resize(n);
  for (size_t i = 0; i < n; ++i)
    t.dts[i] = i < delay ? sorted[0] - int64_t(delay - i) : sorted[i - delay];
}

Times times_of(const PacketTable& table, uint32_t first, uint32_t count) {
  Times t;
  t.time_base = {int(table.stream.time_base_num), int(table.stream.time_base_den)};
  t.pts.assign(table.pts.begin() + first, table.pts.begin() + first + count);
  std::set<int64_t> distinct(t.pts.begin(), t.pts.end());
  if (distinct.size() != count || distinct.contains(kNoTime)) {
    // Presentation order tells the times. A packet that gives no frame of its own comes right after
    // the packet before it.
    std::vector<int64_t> shown_at(table.size.size(), -1);
    for (size_t f = 0; f < table.frame_packet.size(); ++f)
      shown_at[table.frame_packet[f]] = int64_t(f);
    std::vector<std::pair<int64_t, uint32_t>> order;
    int64_t last = -1;
    for (uint32_t p = first; p < first + count; ++p) {
      if (shown_at[p] >= 0) last = shown_at[p];
      order.emplace_back(last, p);
    }
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size(); ++i) t.pts[order[i].second - first] = int64_t(i);
    const bool has_rate = table.stream.frame_rate_num > 0;
    t.time_base = {has_rate ? int(table.stream.frame_rate_den) : 1,
                   has_rate ? int(table.stream.frame_rate_num) : 25};
  } else {
    const int64_t start = *distinct.begin();
    for (int64_t& pts : t.pts) pts -= start;
  }
  derive_dts(t);
  return t;
}

// Returns the size of the file.
int64_t write_file(Env* env, const PacketTable& table, const std::string& path,
                   const char* container, const Times& times, uint32_t first,
                   const std::string& out, const std::function<void()>& working) {
  const CodecPointer context = make_codec_context(table.stream);
  std::unique_ptr<AVCodecParameters, void (*)(AVCodecParameters*)> stream(
      avcodec_parameters_alloc(), [](AVCodecParameters* p) { avcodec_parameters_free(&p); });
  avcodec_parameters_from_context(stream.get(), context.get());
  stream->sample_aspect_ratio = {table.stream.sample_aspect_num, table.stream.sample_aspect_den};
  VideoWriter file(env, out, container, *stream, times.time_base, table.stream.rotation);
  PacketReader source(env, table, path);
  const PacketPointer packet(av_packet_alloc());
  const size_t n = times.pts.size();
  for (size_t i = 0; i < n; ++i) {
    const uint32_t p = first + uint32_t(i);
    const std::span<const uint8_t> bytes = source.get(p).bytes;
    if (av_new_packet(packet.get(), int(bytes.size())) < 0)
      fail(ErrorKind::kIo, "out of memory for a packet of {} bytes", bytes.size());
    std::memcpy(packet->data, bytes.data(), bytes.size());
    packet->pts = times.pts[i];
    packet->dts = times.dts[i];
    // The last packet lasts as long as the one before it.
    packet->duration = n < 2       ? 1
                       : i + 1 < n ? times.dts[i + 1] - times.dts[i]
                                   : times.dts[i] - times.dts[i - 1];
    if (table.flags[p] & (kKeyPacket | kRandomAccess)) packet->flags |= AV_PKT_FLAG_KEY;
    file.write(*packet);
    if (working) working();
  }
  return file.finish();
}

}  // namespace

CutVideo cut_video(Env* env, const PacketTable& table, const std::string& path, int64_t first_frame,
                   int64_t frame_count, const std::string& stem,
                   const std::function<void()>& working) {
  std::vector<int64_t> frames(static_cast<size_t>(frame_count));
  std::iota(frames.begin(), frames.end(), first_frame);
  const DecodePlan plan = plan_decode(table, frames);
  const auto [low, high] = std::minmax_element(plan.packets.begin(), plan.packets.end());
  CutVideo cut;
  cut.first_packet = *low;
  cut.packet_count = *high - *low + 1;
  const Times times = times_of(table, cut.first_packet, cut.packet_count);
  std::string why_not;
  for (const char* container : {"mp4", "matroska"}) {
    try {
      cut.path = stem + (container == std::string("mp4") ? ".mp4" : ".mkv");
      cut.bytes =
          write_file(env, table, path, container, times, cut.first_packet, cut.path, working);
      return cut;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) throw;
      why_not += fmt::format("{}{}: {}", why_not.empty() ? "" : "; ", container, e.what());
    }
  }
  fail(ErrorKind::kData, "{}: its {} packets cannot be copied ({}); pack with --for size instead",
       path, table.stream.codec, why_not);
}

int64_t locate_cut(const PacketTable& source, int64_t first_frame, int64_t frame_count,
                   const CutVideo& cut, const PacketTable& table_of_cut) {
  const auto packet_of = [&](int64_t frame) {
    return source.frame_packet[size_t(frame)] - cut.first_packet;
  };
  const auto& shown = table_of_cut.frame_packet;
  const auto found = std::find(shown.begin(), shown.end(), packet_of(first_frame));
  const int64_t first = found - shown.begin();
  bool same = table_of_cut.packet_count() == int64_t(cut.packet_count) &&
              first + frame_count <= table_of_cut.frame_count();
  for (int64_t k = 0; same && k < frame_count; ++k)
    same = shown[size_t(first + k)] == packet_of(first_frame + k);
  if (!same)
    fail(ErrorKind::kData,
         "a copy of its {} packets does not show the same frames ({} of {} packets, {} frames for "
         "{}); pack with --for size instead",
         source.stream.codec, table_of_cut.packet_count(), cut.packet_count,
         table_of_cut.frame_count(), frame_count);
  return first;
}

}  // namespace keiko::media
