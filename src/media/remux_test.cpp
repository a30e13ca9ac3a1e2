// A cut shows the source's frames, bit by bit, whatever the codec and container.

#include "media/remux.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/packet_reader.h"

namespace keiko::media {
namespace {

Env* const env = default_env();

std::vector<std::string> md5s(const PacketTable& table, const std::string& path, int64_t first,
                              int64_t count) {
  std::vector<int64_t> frames;
  for (int64_t i = 0; i < count; ++i) frames.push_back(first + i);
  std::vector<std::string> found(static_cast<size_t>(count));
  CpuClipDecoder(env).decode_frames(table, path, frames, [&](int64_t i, const AVFrame& frame) {
    found[size_t(i - first)] = raw_md5(frame);
  });
  // Front to back, packet by packet, every second frame: the same pictures.
  for (size_t i = 0; 2 * i < frames.size(); ++i) frames[i] = frames[2 * i];
  frames.resize((frames.size() + 1) / 2);
  size_t next = 0;
  decode_in_order(env, table, path, frames, Damage::kAccept, [&](int64_t i, const AVFrame& frame) {
    EXPECT_EQ(i, frames[next++]);
    EXPECT_EQ(found[size_t(i - first)], raw_md5(frame)) << "frame " << i;
  });
  EXPECT_EQ(next, frames.size());
  return found;
}

// Cuts the whole video and its middle third. True when it can be cut; otherwise `why` says why not.
bool cuts_are_exact(const std::string& path, std::string& why) {
  SCOPED_TRACE(path);
  const TempFolder folder;
  const PacketTable table = scan_video(path);
  const int64_t n = table.frame_count();
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>{0, n}, {n / 3, std::max<int64_t>(1, n / 3)}}) {
    try {
      const CutVideo cut = cut_video(env, table, path, first, count, folder.path() + "/cut");
      const std::string& out = cut.path;
      EXPECT_EQ(cut.bytes, env->status(out).size);
      const PacketTable again = scan_video(out);
      EXPECT_TRUE(again.direct_read) << again.direct_read_off;
      const int64_t at = locate_cut(table, first, count, cut, again);
      EXPECT_EQ(md5s(table, path, first, count), md5s(again, out, at, count));
      EXPECT_LE(cut.packet_count, uint32_t(table.packet_count()));
      const CutVideo twin = cut_video(env, table, path, first, count, folder.path() + "/twin");
      EXPECT_EQ(read_text(env, out), read_text(env, twin.path)) << "not repeatable";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData) << e.what();
      why = e.what();
      return false;
    }
  }
  return true;
}

TEST(Remux, EveryRealAndAwkwardVideoIsCutExactlyOrRefusedByName) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  for (const char* folder : {"/real", "/edge"})
    for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + folder)) {
      std::string why;
      const bool exact = cuts_are_exact(entry.path().string(), why);
      // All of real/ must work; in edge/ a refusal must say what to do.
      if (folder == std::string("/real")) {
        EXPECT_TRUE(exact) << entry.path() << ": " << why;
      } else if (!exact) {
        EXPECT_NE(why.find("--for size"), std::string::npos) << entry.path() << ": " << why;
        std::printf("refused: %s: %s\n", entry.path().c_str(), why.c_str());
      }
    }
}

TEST(Remux, ContainersWithoutTimesAndCodecsThatMp4LacksAreCutToo) {
  const TempFolder folder;
  for (const char* output :
       {"-c:v libx264 -bf 2 -g 12 h264.avi", "-c:v libx264 -bf 2 -g 12 h264.ts",
        "-c:v mpeg2video -bf 2 -g 12 m2.mpg", "-c:v mpeg4 -g 12 m4.avi", "-c:v ffv1 f.mkv",
        "-c:v libvpx -g 12 -b:v 500k v.webm", "-c:v libx264 -g 12 -bf 3 k.mkv"}) {
    const std::string name = std::string(output).substr(std::string(output).find_last_of(' ') + 1);
    const std::string command =
        "cd '" + folder.path() +
        "' && ffmpeg -v error -y -f lavfi -i testsrc2=s=96x64:d=2:r=25 -pix_fmt yuv420p " + output +
        " 2>/dev/null";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    std::string why;
    EXPECT_TRUE(cuts_are_exact(folder.path() + "/" + name, why)) << name << ": " << why;
  }
}

}  // namespace
}  // namespace keiko::media
