#include "data/catalogue.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/hash.h"
#include "data/small_set.h"

namespace keiko::data {
namespace {

class CatalogueTest : public SmallSet {};

TEST_F(CatalogueTest, TheCatalogueHoldsWhatWasIndexed) {
  const auto c = Catalogue::open(env, path("train.kix"));
  EXPECT_EQ(c->item_count(), 24);
  EXPECT_EQ(c->video_count(), 24);
  auto names = synth_class_names();
  std::sort(names.begin(), names.end());
  EXPECT_EQ(c->class_names(), names);
  std::vector<int> per_class(8);
  for (int64_t i = 0; i < 24; ++i) {
    const Item item = c->item(i);
    ++per_class.at(size_t(item.label));
    const auto video = c->video(item.video);
    EXPECT_EQ(item.frame_count, 16);
    EXPECT_NE(video->file.path.find("/" + names[size_t(item.label)] + "/"), std::string::npos);
    const media::PacketTable again = media::scan_video(video->file.path);
    EXPECT_EQ(video->table.stream, again.stream);
    EXPECT_EQ(video->table.position, again.position);
    EXPECT_EQ(video->table.frame_packet, again.frame_packet);
    EXPECT_EQ(video->table.flags, again.flags);
  }
  EXPECT_EQ(per_class, std::vector<int>(8, 3));
  EXPECT_THROW(c->item(24), Error);
  EXPECT_THROW(c->item(-1), Error);
}

// Everything that a catalogue tells, as text.
std::string dump(const std::string& path) {
  const auto c = Catalogue::open(env, path);
  std::string text = fmt::format("{} {}\n", hex64(c->hash()), c->generation());
  c->each_item([&](int64_t i, const Item& item) {
    text += fmt::format("{} {} {} {} {} {} {}\n", i, item.video, item.label, item.first_frame,
                        item.frame_count, item.duration_s, item.fps);
  });
  c->each_summary([&](uint32_t i, const VideoSummary& s) {
    text += fmt::format("{} {} {} {} {}\n", i, s.file.path, s.file.mtime_ns, s.frame_count,
                        hex64(s.file.content_hash));
    text += serialize_video(*c->video(i));
  });
  for (uint64_t hash : c->content_hashes()) text += hex64(hash);
  for (const std::string& name : c->class_names()) text += name;
  return text;
}

TEST_F(CatalogueTest, EveryTornOrFlippedCatalogueIsAnErrorOrChangesNothing) {
  const std::string good = read_text(env, path("train.kix"));
  const std::string bad = path("bad.kix"), clean = dump(path("train.kix"));
  for (size_t length = 0; length < good.size(); length += 1 + good.size() / 211) {
    publish(env, bad, good.substr(0, length));
    EXPECT_NE(error_of([&] { dump(bad); }), "no error") << "cut to " << length;
  }
  int refused = 0;
  for (size_t at = 0; at < good.size(); at += 1 + good.size() / 997) {
    std::string flipped = good;
    flipped[at] = char(flipped[at] ^ 0x55);
    publish(env, bad, flipped);
    std::string seen;
    const std::string message = error_of([&] { seen = dump(bad); });
    // What no checksum covers is padding.
    if (message == "no error") {
      EXPECT_EQ(seen, clean) << "byte " << at;
    } else {
      EXPECT_NE(message.find(bad), std::string::npos) << message;
      ++refused;
    }
  }
  EXPECT_GT(refused, 400);
}

TEST_F(CatalogueTest, OneOfAnotherVersionSaysWhatToDo) {
  std::string old = read_text(env, path("train.kix"));
  old[8] = 1;
  publish(env, path("old.kix"), old);
  const std::string message = error_of([&] { Catalogue::open(env, path("old.kix")); });
  EXPECT_NE(message.find("catalogue version 1, but this Keiko reads version 2; make it again with "
                         "keiko index"),
            std::string::npos)
      << message;
}

TEST_F(CatalogueTest, SummariesAndItemsSayWhatTheTablesSay) {
  const auto c = Catalogue::open(env, path("train.kix"));
  int64_t items = 0, videos = 0;
  c->each_item([&](int64_t i, const Item& item) {
    EXPECT_EQ(i, items++);
    const Item alone = c->item(i);
    EXPECT_EQ(alone.video, item.video);
    EXPECT_EQ(alone.label, item.label);
    const auto video = c->video(item.video);
    const double rate = video->table.stream.frames_per_second();
    EXPECT_NEAR(item.duration_s, 16 / rate, 0.01);
    EXPECT_NEAR(item.fps, rate, 0.1);
  });
  const std::vector<uint64_t> hashes = c->content_hashes();
  c->each_summary([&](uint32_t i, const VideoSummary& s) {
    EXPECT_EQ(int64_t(i), videos++);
    const auto video = c->video(i);
    EXPECT_EQ(s.file.path, video->file.path);
    EXPECT_EQ(s.file.size, video->file.size);
    EXPECT_EQ(s.file.mtime_ns, video->file.mtime_ns);
    EXPECT_EQ(s.file.content_hash, video->file.content_hash);
    EXPECT_EQ(hashes[i], sampled_xxh3_of_file(s.file.path));
    EXPECT_EQ(s.frame_count, video->table.frame_count());
    EXPECT_EQ(s.codec, "h264");
    EXPECT_EQ(s.codec, video->table.stream.codec);
    EXPECT_EQ(s.direct_read, video->table.direct_read);
    EXPECT_EQ(s.skipping, video->table.skipping);
    EXPECT_EQ(c->summary(i).file.path, s.file.path);
  });
  EXPECT_EQ(items, 24);
  EXPECT_EQ(videos, 24);
}

TEST_F(CatalogueTest, ASummaryNamesACommonCodecAndLeavesARareOneToTheRecord) {
  CatalogueWriter writer(env, path("codecs.kix"));
  const std::vector<std::string> codecs = {"vp9", "rawvideo", "snow"};
  for (const std::string& codec : codecs) {
    Video v = made_up_video("/there/" + codec, 4, 25);
    v.table.stream.codec = codec;
    v.table.skipping = true;
    writer.add_item({writer.add_video(v), -1, 0, 4});
  }
  writer.publish();
  const auto c = Catalogue::open(env, path("codecs.kix"));
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(c->summary(i).codec, i < 2 ? codecs[i] : "");
    EXPECT_EQ(c->summary(i).skipping, i < 2);
    EXPECT_EQ(c->video(i)->table.stream.codec, codecs[i]);
  }
}

TEST_F(CatalogueTest, MoreVideosThanOnePieceComeBackInOrder) {
  const std::string out = path("many.kix");
  constexpr int kVideos = 20000;  // each_item reads 8,192 at a time
  {
    CatalogueWriter writer(env, out);
    for (int i = 0; i < kVideos; ++i) {
      Item item;
      item.video = writer.add_video(made_up_video(fmt::format("/there/{}.mp4", i), 1 + i % 7, 25));
      item.frame_count = 1 + i % 7;
      writer.add_item(item);
    }
    writer.publish();
  }
  const auto c = Catalogue::open(env, out);
  ASSERT_EQ(c->video_count(), kVideos);
  int64_t seen = 0;
  c->each_summary([&](uint32_t i, const VideoSummary& s) {
    ASSERT_EQ(int64_t(i), seen++);
    ASSERT_EQ(s.file.path, fmt::format("/there/{}.mp4", i));
  });
  EXPECT_EQ(seen, kVideos);
  c->each_item([&](int64_t i, const Item& item) { ASSERT_EQ(item.frame_count, 1 + i % 7); });
  EXPECT_EQ(c->video(12345)->table.frame_count(), 1 + 12345 % 7);
}

TEST_F(CatalogueTest, TimesThatPacketsDoNotGiveAreWorkedOutAgain) {
  Video video = made_up_video("/there/a.avi", 3, 25);
  video.table.pts = {media::kNoTime, media::kNoTime, media::kNoTime};
  video.table.dts = {0, 95, 40};
  const std::string bytes = serialize_video(video);
  const Video again =
      parse_video({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "a test");
  EXPECT_EQ(again.table.frame_pts, (std::vector<int64_t>{0, 40, 95}));
  EXPECT_TRUE(again.has_times);
  EXPECT_EQ(again.table.pts, video.table.pts);
}

TEST_F(CatalogueTest, WhatIsNotPublishedLeavesNothingBehind) {
  {
    CatalogueWriter writer(env, path("never.kix"));
    writer.add_video(made_up_video("/there/a.mp4", 3, 25));
    EXPECT_TRUE(env->status(path("never.kix.tmp")).exists);
  }
  EXPECT_FALSE(env->status(path("never.kix.tmp")).exists);
  EXPECT_FALSE(env->status(path("never.kix")).exists);
}

}  // namespace
}  // namespace keiko::data
