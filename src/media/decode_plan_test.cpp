#include "media/decode_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "base/rng.h"

namespace keiko::media {
namespace {

// A table of GOPs in decode order I P b b P b b ..., every b droppable, made by hand.
PacketTable gops(int gop_count, int pairs) {
  PacketTable table;
  table.direct_read = table.skipping = true;
  int64_t pts = 0, position = 100;
  auto add = [&](int64_t at, uint8_t flags, uint32_t size) {
    table.position.push_back(position);
    table.size.push_back(size);
    table.pts.push_back(at);
    table.dts.push_back(int64_t(table.size.size()));
    table.flags.push_back(flags);
    position += size + 10;
  };
  for (int g = 0; g < gop_count; ++g) {
    add(pts, kKeyPacket | kRandomAccess, 1000);
    for (int p = 0; p < pairs; ++p) {
      add(pts + 3, 0, 300);
      add(pts + 1, kDroppable, 50);
      add(pts + 2, kDroppable, 50);
      pts += 3;
    }
    ++pts;
  }
  for (uint32_t i = 0; i < table.size.size(); ++i) table.frame_packet.push_back(i);
  std::sort(table.frame_packet.begin(), table.frame_packet.end(),
            [&](uint32_t a, uint32_t b) { return table.pts[a] < table.pts[b]; });
  for (uint32_t p : table.frame_packet) table.frame_pts.push_back(table.pts[p]);
  return table;
}

TEST(DecodePlan, FeedsNothingThatNoWantedFrameNeeds) {
  const PacketTable table = gops(4, 5);
  Rng rng(1, Stream::kClip, 0);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<int64_t> frames;
    for (uint64_t n = 1 + rng.below(8); n > 0; --n)
      frames.push_back(int64_t(rng.below(uint64_t(table.frame_count()))));
    const DecodePlan plan = plan_decode(table, frames);
    std::set<uint32_t> wanted, fed(plan.packets.begin(), plan.packets.end());
    for (int64_t f : frames) wanted.insert(table.frame_packet[size_t(f)]);
    for (uint32_t p : wanted) EXPECT_TRUE(fed.contains(p)) << "packet " << p << " is wanted";
    for (uint32_t p : fed) {
      if (table.flags[p] & kDroppable) {
        EXPECT_TRUE(wanted.contains(p)) << "packet " << p;
      }
      // Some wanted packet of the same GOP comes at or after it.
      const uint32_t gop_end = p - p % 16 + 16;
      const auto next = wanted.lower_bound(p);
      EXPECT_TRUE(next != wanted.end() && *next < gop_end) << "packet " << p;
    }
    // Every packet that a wanted one needs is fed: all undroppable ones from its GOP's start.
    for (uint32_t p : wanted)
      for (uint32_t q = p - p % 16; q < p; ++q)
        if (!(table.flags[q] & kDroppable)) {
          EXPECT_TRUE(fed.contains(q)) << q << " for " << p;
        }
  }
}

TEST(DecodePlan, ReadsCoverEveryFedPacketAndAscend) {
  const PacketTable table = gops(6, 5);
  const std::vector<int64_t> frames = {90, 3, 3, 17};
  for (int64_t gap : {0, 100, 1 << 20}) {
    const DecodePlan plan = plan_decode(table, frames, gap);
    for (uint32_t p : plan.packets) {
      bool covered = false;
      for (const ByteRange& r : plan.reads)
        covered |=
            table.position[p] >= r.offset && table.position[p] + table.size[p] <= r.offset + r.size;
      EXPECT_TRUE(covered) << "packet " << p << ", gap " << gap;
    }
    for (size_t i = 1; i < plan.reads.size(); ++i)
      EXPECT_GT(plan.reads[i].offset, plan.reads[i - 1].offset + plan.reads[i - 1].size + gap);
  }
  EXPECT_EQ(plan_decode(table, frames, 1 << 20).reads.size(), 1u);
  EXPECT_EQ(plan_decode(table, frames).frames, (std::vector<uint32_t>{3, 17, 90}));
}

TEST(DecodePlan, LeadingPicturesStartFromThePointBefore) {
  PacketTable table;
  // I0 P3 I6(random access, open GOP) b4 b5: b4 and b5 are shown before I6 and need P3.
  table.pts = {0, 3, 6, 4, 5};
  table.dts = {0, 1, 2, 3, 4};
  table.size = {1, 1, 1, 1, 1};
  table.position = {0, 1, 2, 3, 4};
  table.flags = {kRandomAccess, 0, kRandomAccess, 0, 0};
  table.frame_packet = {0, 1, 3, 4, 2};
  table.frame_pts = {0, 3, 4, 5, 6};
  table.direct_read = true;
  EXPECT_EQ(plan_decode(table, std::vector<int64_t>{2}).packets,
            (std::vector<uint32_t>{0, 1, 2, 3}));
  EXPECT_EQ(plan_decode(table, std::vector<int64_t>{4}).packets, (std::vector<uint32_t>{2}));
}

TEST(DecodePlan, AFrameOutsideTheVideoIsNamed) {
  const PacketTable table = gops(1, 1);
  for (int64_t bad : {int64_t{-1}, table.frame_count()}) {
    try {
      plan_decode(table, std::vector<int64_t>{0, bad});
      FAIL() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()),
                fmt::format("frame {} is outside the video's 4 frames", bad));
    }
  }
}

}  // namespace
}  // namespace keiko::media
