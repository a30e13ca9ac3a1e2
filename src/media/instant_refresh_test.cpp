#include "media/instant_refresh.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "base/temp_folder.h"
#include "media/packet_reader.h"

namespace keiko::media {
namespace {

struct Made {
  const char* name;
  const char* recipe;
};

std::string make(const TempFolder& folder, const Made& made) {
  const std::string command =
      "cd '" + folder.path() +
      "' && SRC='-f lavfi -i testsrc2=s=96x64:d=2:r=25,noise=alls=12:allf=t+u:all_seed=1,"
      "format=yuv420p' && FF='ffmpeg -nostdin -v error -y' && " +
      made.recipe + " 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  return folder.path() + "/" + made.name;
}

bool has_ffmpeg() { return std::system("ffmpeg -version > /dev/null 2>&1") == 0; }

// Which packets hold a picture that they do not show, by FFmpeg's own reading of the headers.
std::vector<bool> packets_with_hidden_pictures(const std::string& path) {
  const std::string command = "ffmpeg -nostdin -v trace -i '" + path +
                              "' -c copy -bsf:v trace_headers -f null - 2>&1 | "
                              "grep -E 'trace_headers.*(Packet:| show_frame )'";
  std::vector<bool> hidden;
  FILE* pipe = ::popen(command.c_str(), "r");
  char line[1024];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) {
    const std::string text(line);
    if (text.find("Packet:") != std::string::npos)
      hidden.push_back(false);
    else if (!hidden.empty() && text.find("= 0") != std::string::npos)
      hidden.back() = true;
  }
  ::pclose(pipe);
  return hidden;
}

TEST(MayBeHidden, IsFalseWhereAPacketBringsAPictureToBeShownLater) {
  if (!has_ffmpeg()) GTEST_SKIP() << "no ffmpeg command line";
  const TempFolder folder;
  for (const Made& made :
       {Made{"aom.mkv",
             "$FF $SRC -c:v libaom-av1 -cpu-used 8 -g 12 -lag-in-frames 19 -b:v 300k aom.mkv"},
        Made{"super.webm",
             "for pass in 1 2; do $FF $SRC -c:v libvpx-vp9 -g 25 -auto-alt-ref 6 -lag-in-frames 25 "
             "-b:v 60k -cpu-used 4 -pass $pass super.webm; done"},
        Made{"plain.webm",
             "$FF $SRC -c:v libvpx-vp9 -g 12 -auto-alt-ref 0 -b:v 300k plain.webm"}}) {
    const std::string path = make(folder, made);
    const PacketTable table = scan_video(path);
    const std::vector<bool> hidden = packets_with_hidden_pictures(path);
    ASSERT_EQ(hidden.size(), size_t(table.packet_count())) << path;
    PacketReader reader(default_env(), table, path);
    int brought = 0;
    for (uint32_t p = 0; p < hidden.size(); ++p) {
      EXPECT_EQ(may_be_hidden(table.stream, reader.get(p).bytes), !hidden[p])
          << made.name << " packet " << p;
      brought += hidden[p];
    }
    EXPECT_EQ(brought > 0, std::string(made.name) != "plain.webm") << made.name;
  }
}

TEST(MayBeHidden, IsFalseForWhatCannotBeRead) {
  StreamParameters stream;
  const std::vector<uint8_t> junk = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  for (const char* codec : {"vp9", "av1", "mpeg4"}) {
    stream.codec = codec;
    for (size_t n = 0; n <= junk.size(); ++n)
      EXPECT_FALSE(may_be_hidden(stream, std::span(junk).first(n))) << codec << " " << n;
  }
}

TEST(InstantRefresh, IsFoundAtEveryStartAndNowhereElse) {
  if (!has_ffmpeg()) GTEST_SKIP() << "no ffmpeg command line";
  const TempFolder folder;
  for (const Made& made :
       {Made{"gop.mp4", "$FF $SRC -c:v libx264 -g 12 -bf 3 gop.mp4"},
        Made{"start_codes.h264", "$FF $SRC -c:v libx264 -g 12 -bf 3 start_codes.h264"},
        Made{"cra.mkv",
             "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 cra.mkv"},
        Made{
            "idr.mp4",
            "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:no-open-gop=1 idr.mp4"}}) {
    const std::string path = make(folder, made);
    const PacketTable table = scan_video(path);
    PacketReader reader(default_env(), table, path);
    int starts = 0;
    for (uint32_t p = 0; p < table.packet_count(); ++p) {
      const auto bytes = reader.get(p).bytes;
      const std::vector<uint8_t> refresh = as_instant_refresh(table.stream, bytes);
      const bool is_start = (table.flags[p] & kRandomAccess) != 0;
      EXPECT_EQ(!refresh.empty(), is_start) << made.name << " packet " << p;
      if (refresh.empty()) continue;
      ++starts;
      EXPECT_EQ(refresh.size(), bytes.size());
      EXPECT_EQ(as_instant_refresh(table.stream, refresh), refresh) << "renaming is done once";
    }
    EXPECT_GE(starts, 4) << made.name;
  }
}

}  // namespace
}  // namespace keiko::media
