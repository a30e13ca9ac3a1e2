// Containers without a header announce streams whenever they like. Whenever they do, only so many
// count. The files are ffmpeg's, with packets of more and more streams written between its own.

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/env.h"
#include "base/error.h"
#include "base/temp_folder.h"
#include "media/demux.h"
#include "media/limits.h"
#include "media/packet_table.h"

namespace keiko::media {
namespace {

Env* const env = default_env();
constexpr size_t kTsPacket = 188;
constexpr unsigned kVideoPid = 0x100;  // what ffmpeg's muxer gives to the first stream

unsigned pid_of(const std::string& ts, size_t at) {
  return unsigned(uint8_t(ts[at + 1]) & 0x1f) << 8 | uint8_t(ts[at + 2]);
}

// Copies of the video's packets from byte `from` on, under `copies` other packet identifiers that
// no table announces.
std::string with_copies(const std::string& ts, size_t from, int copies) {
  std::string out;
  for (size_t at = 0; at + kTsPacket <= ts.size(); at += kTsPacket) {
    std::string packet = ts.substr(at, kTsPacket);
    out += packet;
    if (at < from || pid_of(ts, at) != kVideoPid) continue;
    for (int k = 1; k <= copies; ++k) {
      const unsigned pid = kVideoPid + unsigned(k);
      packet[1] = char((uint8_t(packet[1]) & 0xe0) | pid >> 8);
      packet[2] = char(pid & 0xff);
      out += packet;
    }
  }
  return out;
}

class LateStreams : public testing::Test {
 protected:
  // A transport stream with one MPEG-2 video of so many seconds.
  std::string make_ts(int seconds) {
    const std::string path = folder_.path() + "/plain.ts";
    const std::string command =
        "ffmpeg -v error -y -f lavfi -i testsrc2=s=64x48:r=25:d=" + std::to_string(seconds) +
        " -c:v mpeg2video -b:v 200k -g 12 " + path;
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    return read_text(env, path);
  }
  std::string path() const { return folder_.path() + "/late.ts"; }
  TempFolder folder_;
};

TEST_F(LateStreams, ThatTurnUpWhileTheFileIsProbedCountLikeOthers) {
  const std::string ts = make_ts(2);
  publish(env, path(), with_copies(ts, ts.size() / 8, 2));
  EXPECT_EQ(scan_video(path()).frame_count(), 50);
  for (const int copies : {kMostVideoStreams, 60}) {
    publish(env, path(), with_copies(ts, ts.size() / 8, copies));
    try {
      scan_video(path());
      ADD_FAILURE() << copies << " more video streams were taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData);
      EXPECT_NE(std::string(e.what()).find("video streams, more than 16"), std::string::npos)
          << e.what();
    }
  }
}

TEST_F(LateStreams, ThatTurnUpAfterwardsChangeNoPacketOfTheVideoOrEndIt) {
  const std::string ts = make_ts(60);
  const PacketTable plain = scan_video(folder_.path() + "/plain.ts");
  publish(env, path(), with_copies(ts, ts.size() * 9 / 10, 100));
  Demuxer demuxer(env, path(), Demuxer::kBestVideo);
  EXPECT_EQ(demuxer.input()->nb_streams, 1u) << "the others come after what probing reads";
  size_t packets = 0;
  while (const AVPacket* packet = demuxer.next()) {
    ASSERT_LT(packets, plain.size.size());
    EXPECT_EQ(uint32_t(packet->size), plain.size[packets]);
    EXPECT_EQ(packet->pts, plain.pts[packets]);
    ++packets;
  }
  EXPECT_EQ(packets, plain.size.size());
  EXPECT_EQ(demuxer.input()->nb_streams, 101u);
  // Past the limit libavformat would cut packets of the video short: then the file is refused.
  publish(env, path(), with_copies(ts, ts.size() * 9 / 10, kMostStreams));
  try {
    scan_video(path());
    ADD_FAILURE() << "129 streams were taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kData);
    EXPECT_NE(std::string(e.what()).find("128 streams or more"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace keiko::media
