#include "data/catalogue.h"

#include <gtest/gtest.h>

#include <algorithm>

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

TEST_F(CatalogueTest, EveryTornOrFlippedCatalogueIsAnErrorOrStillRight) {
  const std::string good = read_text(env, path("train.kix"));
  const std::string bad = path("bad.kix");
  auto read_all = [&] {
    const auto c = Catalogue::open(env, bad);
    for (int64_t i = 0; i < c->item_count(); ++i) c->video(c->item(i).video);
  };
  for (size_t length = 0; length < good.size(); length += 1 + good.size() / 211) {
    publish(env, bad, good.substr(0, length));
    EXPECT_NE(error_of(read_all), "no error") << "cut to " << length;
  }
  for (size_t at = 0; at < good.size(); at += 1 + good.size() / 499) {
    std::string flipped = good;
    flipped[at] = char(flipped[at] ^ 0x55);
    publish(env, bad, flipped);
    const std::string message = error_of(read_all);
    // Items hold no checksum of their own, so a flipped label may pass; a crash may not.
    if (message != "no error") {
      EXPECT_NE(message.find(bad), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace keiko::data
