// What the tests of this room share: a small data set that they write and index themselves.

#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/error.h"
#include "base/temp_folder.h"
#include "data/catalogue.h"
#include "data/frame_times.h"
#include "data/index.h"
#include "data/synth.h"

namespace keiko::data {

inline Env* const env = default_env();

// A folder with train/CLASS/*.mp4 (24 clips of 16 frames, 32x32), test/CLASS/*.mp4 (8), and
// train.kix.
class SmallSet : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    SynthOptions o;
    o.out = folder_->path();
    o.train = 24;
    o.test = 8;
    write_synth(env, o, {});
    IndexOptions index;
    index.sources = {o.out + "/train"};
    index.out = o.out + "/train.kix";
    build_catalogue(env, index, {});
  }
  static void TearDownTestSuite() { delete folder_; }
  static std::string path(const std::string& name) { return folder_->path() + "/" + name; }
  static inline TempFolder* folder_ = nullptr;
};

// The message of the Error that `work` throws, or "no error".
inline std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// A video that is not there, with a packet a frame, at a constant rate unless `pts` says otherwise.
// Ticks are milliseconds.
inline Video made_up_video(const std::string& path, int64_t frames, int64_t fps,
                           const std::vector<int64_t>& pts = {}) {
  Video v;
  v.file.path = path;
  v.file.size = 1000 * frames + 8;
  v.file.content_hash = std::hash<std::string>()(path);
  media::PacketTable& t = v.table;
  t.stream.codec = "h264";
  t.stream.width = 64;
  t.stream.height = 48;
  t.stream.time_base_den = 1000;
  t.stream.frame_rate_num = fps;
  t.direct_read = true;
  for (int64_t i = 0; i < frames; ++i) {
    t.position.push_back(1000 * i);
    t.size.push_back(1000);
    t.pts.push_back(pts.empty() ? 1000 * i / fps : pts[size_t(i)]);
    t.dts.push_back(t.pts.back());
    t.flags.push_back(i % 10 == 0 ? media::kKeyPacket | media::kRandomAccess : 0);
    t.frame_packet.push_back(uint32_t(i));
  }
  t.frame_pts = t.pts;
  v.has_times = times_are_usable(t);
  return v;
}

// Publishes a catalogue of such videos, an unlabelled item each.
inline void publish_videos(const std::string& path, const std::vector<Video>& videos) {
  CatalogueWriter writer(env, path);
  for (const Video& video : videos) {
    Item item;
    item.video = writer.add_video(video);
    item.frame_count = video.table.frame_count();
    writer.add_item(item);
  }
  writer.publish();
}

}  // namespace keiko::data
