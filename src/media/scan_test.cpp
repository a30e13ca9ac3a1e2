#include <gtest/gtest.h>

#include "base/env.h"
#include "base/error.h"
#include "base/temp_folder.h"
#include "media/clip_encoder.h"
#include "media/packet_table.h"

namespace keiko::media {
namespace {

std::string clip_bytes() {
  std::vector<uint8_t> luma(32 * 32 * 20, 77);
  for (size_t i = 0; i < luma.size(); ++i) luma[i] = uint8_t(i * 7 / 32);
  const auto bytes = encode_mp4(luma, {});
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string error_of(const std::string& path) {
  try {
    scan_video(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(ScanVideo, SaysWhatIsWrongWithAFile) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  publish(default_env(), path, "");
  EXPECT_EQ(error_of(path), path + ": the file is empty");
  publish(default_env(), path, "this is a text file, not a video\n");
  EXPECT_NE(error_of(path).find("not a video that FFmpeg can open"), std::string::npos);
  EXPECT_NE(error_of(folder.path() + "/missing.mp4").find("No such file"), std::string::npos);
}

TEST(ScanVideo, ATornFileIsAnErrorOrShorterNeverACrash) {
  const TempFolder folder;
  const std::string whole = clip_bytes();
  const std::string path = folder.path() + "/torn.mp4";
  for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 97) {
    publish(default_env(), path, whole.substr(0, length));
    try {
      EXPECT_LE(scan_video(path).frame_count(), 20);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
    }
  }
}

TEST(ScanVideo, NeverOpensWhatAFileRefersTo) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/real.mp4", clip_bytes());
  const std::string playlist = folder.path() + "/list.mp4";
  publish(default_env(), playlist, "ffconcat version 1.0\nfile real.mp4\n");
  EXPECT_NE(error_of(playlist).find("not a video"), std::string::npos) << error_of(playlist);
  publish(default_env(), playlist, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n");
  EXPECT_NE(error_of(playlist).find("not a video"), std::string::npos) << error_of(playlist);
}

PacketTable table_with_times(std::vector<int64_t> pts, std::vector<int64_t> dts) {
  PacketTable table;
  table.pts = std::move(pts);
  table.dts = std::move(dts);
  table.size.assign(table.pts.size(), 1);
  table.flags.assign(table.pts.size(), 0);
  table.flags[0] = kRandomAccess;
  for (uint32_t p = 0; p < table.pts.size(); ++p) table.frame_packet.push_back(p);
  return table;
}

TEST(CompleteTable, FrameTimesComeFromPtsElseDtsElseTheFrameRate) {
  PacketTable table = table_with_times({0, 3, 4, 9}, {0, 1, 2, 3});
  complete_table(table);
  EXPECT_EQ(table.frame_pts, (std::vector<int64_t>{0, 3, 4, 9}));
  // A container without pts: the k-th frame shown has the k-th smallest dts.
  table = table_with_times({0, kNoTime, kNoTime, 9}, {0, 7, 2, 3});
  complete_table(table);
  EXPECT_EQ(table.frame_pts, (std::vector<int64_t>{0, 2, 3, 7}));
  table = table_with_times({kNoTime, kNoTime, 5}, {kNoTime, 1, 2});
  table.stream.time_base_den = 1000;
  table.stream.frame_rate_num = 25;
  table.stream.frame_rate_den = 1;
  complete_table(table);
  EXPECT_EQ(table.frame_pts, (std::vector<int64_t>{0, 40, 80}));
}

TEST(CompleteTable, TimeGoesOnWhereRecordingsFollowEachOther) {
  PacketTable table = table_with_times({100, 140, 180, 0, 40, 90}, {0, 1, 2, 3, 4, 5});
  complete_table(table);
  EXPECT_EQ(table.frame_pts, (std::vector<int64_t>{100, 140, 180, 220, 260, 310}));
}

TEST(CompleteTable, AMappedTableSaysWhereEachFrameStartsAndEnds) {
  // I0, its second field, P2, its second field, open-GOP I6 with the leading b4.
  PacketTable table = table_with_times({0, kNoTime, 2, kNoTime, 6, 4}, {0, 1, 2, 3, 4, 5});
  table.frame_packet = {0, 2, 5, 4};
  table.flags = {kRandomAccess, 0, 0, 0, kRandomAccess, 0};
  table.mapped_by_decoding = true;
  complete_table(table);
  EXPECT_EQ(table.frame_start, (std::vector<uint32_t>{0, 0, 0, 4}));
  EXPECT_EQ(table.frame_last, (std::vector<uint32_t>{1, 3, 5, 4}));
  EXPECT_TRUE(table.frame_turn.empty());
  table.frame_packet = {0, 0, 2, 2};
  complete_table(table);
  EXPECT_EQ(table.frame_turn, (std::vector<uint32_t>{0, 1, 0, 1}));
}

}  // namespace
}  // namespace keiko::media
