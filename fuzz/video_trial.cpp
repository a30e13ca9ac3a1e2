#include "fuzz/video_trial.h"

#include <algorithm>
#include <random>
#include <vector>

#include "fuzz/target.h"
#include "media/clip_decoder.h"
#include "media/decode_plan.h"

namespace keiko::fuzz {

void require_sound(const media::PacketTable& table) {
  const size_t packets = table.size.size();
  require(table.position.size() == packets && table.pts.size() == packets &&
              table.dts.size() == packets && table.flags.size() == packets,
          "all columns over packets are of one length");
  require(table.frame_packet.size() == table.frame_pts.size() && !table.frame_packet.empty(),
          "a table has frames, each with its time");
  require(std::is_sorted(table.frame_pts.begin(), table.frame_pts.end()),
          "frames are in the order of their times");
  for (uint32_t packet : table.frame_packet)
    require(packet < packets, "every frame comes from a packet");
}

void decode_random_clips(Env* env, const media::PacketTable& table, const std::string& path,
                         uint64_t seed, int clips, size_t most_packets, TrialOutcome& outcome) {
  std::mt19937_64 draw(seed);
  media::CpuClipDecoder decoder(env);
  for (int c = 0; c < clips; ++c) {
    std::vector<int64_t> frames(1 + draw() % 4);
    for (int64_t& frame : frames) frame = int64_t(draw() % uint64_t(table.frame_count()));
    const int size = int(8 << draw() % 3);
    const double width = table.stream.display_width(), height = table.stream.display_height();
    media::ClipRequest request;
    request.crop = {0, 0, width, height};
    if (draw() % 2 == 0) request.crop = {width / 4, height / 4, width / 2, height / 2};
    request.table = &table;
    request.path = &path;
    request.frames = frames;
    request.size = size;
    request.flip = draw() % 2 == 0;
    request.allow_concealed = true;  // or damage would end most clips before their pixels
    request.filter = draw() % 2 == 0 ? media::Filter::kBilinear : media::Filter::kBicubic;
    std::vector<uint8_t> out(3 * frames.size() * size_t(size) * size_t(size));
    request.out = out.data();
    request.channel_stride = int64_t(frames.size()) * size * size;
    const bool good = survives([&] {
      const media::DecodePlan plan = media::plan_decode(table, frames);
      for (uint32_t packet : plan.packets)
        require(packet < table.size.size(), "a plan feeds packets of the table");
      if (plan.packets.size() > most_packets) return;
      decoder.decode(request);
    });
    ++(good ? outcome.clips : outcome.refused_clips);
  }
}

TrialOutcome try_video(const std::string& path, uint64_t seed, int clips, size_t most_packets) {
  TrialOutcome outcome;
  media::PacketTable table;
  outcome.scanned = survives([&] { table = media::scan_video(path); });
  if (!outcome.scanned) return outcome;
  require_sound(table);
  outcome.frames = table.frame_count();
  decode_random_clips(default_env(), table, path, seed, clips, most_packets, outcome);
  return outcome;
}

}  // namespace keiko::fuzz
