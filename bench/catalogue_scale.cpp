// How long a catalogue of many videos takes to make, to open, and to give its first batch's plans.
//
//   catalogue_scale make FILE [VIDEOS] [PACKETS]   writes one from made-up tables
//   catalogue_scale open FILE [LABELS]             opens it as training does, from a cold page
//   cache
//
// Figures of `open` are JSON on stdout; memory is resident memory over that before opening.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "base/machine.h"
#include "base/rng.h"
#include "data/catalogue.h"
#include "data/dataset.h"

namespace keiko {
namespace {

// Sizes and times as x264 gives them: a key packet each 250, two of three packets droppable, sizes
// and so positions different for every video.
data::Video make_video(int64_t index, int64_t packets) {
  data::Video v;
  v.file.path =
      fmt::format("/videos/set-{:02}/class-{:03}/video-{:08}.mp4", index % 17, index % 400, index);
  v.file.mtime_ns = 1'700'000'000'000'000'000 + index;
  v.file.content_hash = xxh3(std::string_view(v.file.path));
  media::PacketTable& t = v.table;
  t.stream.format_name = "mov,mp4,m4a,3gp,3g2,mj2";
  t.stream.codec = "h264";
  t.stream.pixel_format = "yuv420p";
  t.stream.width = 340;
  t.stream.height = 256;
  t.stream.extradata.assign(45, uint8_t(index));
  t.stream.time_base_den = 15360;
  t.stream.frame_rate_num = 30;
  t.stream.reorder_depth = 2;
  t.direct_read = t.skipping = true;
  Rng rng(1, Stream::kSynth, uint64_t(index));
  int64_t position = 48;
  for (int64_t i = 0; i < packets; ++i) {
    const bool is_key = i % 250 == 0;
    t.position.push_back(position);
    t.size.push_back(uint32_t((is_key ? 20000 : 800) + rng.below(2000)));
    position += t.size.back();
    t.pts.push_back(512 * i);
    t.dts.push_back(512 * (i - 2));
    t.flags.push_back(is_key ? media::kKeyPacket | media::kRandomAccess
                             : (i % 3 == 0 ? 0 : media::kDroppable));
    t.frame_packet.push_back(uint32_t(i));
    t.frame_pts.push_back(512 * i);
  }
  v.file.size = position;
  return v;
}

void make(const std::string& path, int64_t videos, int64_t packets) {
  const double start = monotonic_s();
  const int64_t before = resident_bytes();
  data::CatalogueWriter writer(default_env(), path);
  std::vector<std::string> names;
  for (int i = 0; i < 400; ++i) names.push_back(fmt::format("class-{:03}", i));
  writer.set_class_names(names);
  int64_t most = 0;
  for (int64_t i = 0; i < videos; ++i) {
    data::Item item;
    item.video = writer.add_video(make_video(i, packets));
    item.label = int32_t(i % 400);
    item.frame_count = packets;
    writer.add_item(item);
    if (i % 10000 == 0) most = std::max(most, resident_bytes());
  }
  writer.publish();
  most = std::max(most, resident_bytes());
  std::printf("{\"videos\": %ld, \"file_bytes\": %ld, \"seconds\": %.2f, \"memory_bytes\": %ld}\n",
              long(videos), long(default_env()->status(path).size), monotonic_s() - start,
              long(most - before));
}

void forget_pages(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

void open(const std::string& path, const std::string& labels) {
  nlohmann::ordered_json all;
  for (const std::string mode : {"item", "duration", "labels"}) {
    if (mode == "labels" && labels.empty()) continue;
    forget_pages(path);
    const int64_t before = resident_bytes();
    const double start = monotonic_s();
    data::ClipOptions clip;
    clip.sample_by = mode == "duration" ? mode : "item";
    clip.window_s = 2;
    data::DataSource source;
    source.path = path;
    if (mode == "labels") source.labels = labels;
    const data::Dataset dataset(default_env(), {source}, clip, {}, 1, 1);
    const double opened = monotonic_s();
    int64_t packets = 0;
    constexpr int64_t kBatch = 256;
    for (int64_t p = 0; p < kBatch; ++p)
      packets += dataset.video_of(dataset.training_clip(p))->table.packet_count();
    const double planned = monotonic_s();
    all[mode] = {{"samples", dataset.sample_count()},
                 {"open_s", opened - start},
                 {"first_batch_s", planned - opened},
                 {"packets_of_first_batch", packets},
                 {"memory_bytes", resident_bytes() - before}};
  }
  // As `keiko inspect` looks at it.
  forget_pages(path);
  const double start = monotonic_s();
  const auto catalogue = data::Catalogue::open(default_env(), path);
  int64_t frames = 0, named = 0;
  catalogue->each_summary([&](uint32_t, const data::VideoSummary& s) {
    frames += s.frame_count;
    named += !s.codec.empty();
  });
  all["summaries"] = {
      {"frames", frames}, {"with_codec", named}, {"seconds", monotonic_s() - start}};
  std::printf("%s\n", all.dump(2).c_str());
}

int run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "make" && argc > 2) {
    make(argv[2], argc > 3 ? std::stoll(argv[3]) : 1'000'000, argc > 4 ? std::stoll(argv[4]) : 300);
  } else if (what == "open" && argc > 2) {
    open(argv[2], argc > 3 ? argv[3] : "");
  } else {
    std::fprintf(stderr,
                 "usage: catalogue_scale make FILE [VIDEOS] [PACKETS] | open FILE [LABELS]\n");
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace keiko

int main(int argc, char** argv) {
  try {
    return keiko::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "catalogue_scale: %s\n", e.what());
    return 1;
  }
}
