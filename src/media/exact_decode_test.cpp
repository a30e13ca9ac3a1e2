// Every frame, however it is asked for, equals the ffmpeg command line's sequential decode.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/rng.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/clip_encoder.h"

namespace keiko::media {
namespace {

// The md5 of every frame of the stream, by the ffmpeg command line.
std::vector<std::string> ffmpeg_md5s(const std::string& path, int stream) {
  const std::string command = "ffmpeg -v error -i '" + path + "' -map 0:" + std::to_string(stream) +
                              " -vsync passthrough -f framemd5 - 2>/dev/null";
  std::vector<std::string> md5s;
  FILE* pipe = ::popen(command.c_str(), "r");
  char line[512];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) {
    if (line[0] == '#') continue;
    std::string text(line);
    text.erase(text.find_last_not_of(" \n") + 1);
    md5s.push_back(text.substr(text.find_last_of(' ') + 1));
  }
  ::pclose(pipe);
  return md5s;
}

void expect_exact(const std::string& path, size_t most_single) {
  SCOPED_TRACE(path);
  const PacketTable table = scan_video(path);
  const std::vector<std::string> truth = ffmpeg_md5s(path, table.stream.stream_index);
  ASSERT_EQ(size_t(table.frame_count()), truth.size());
  CpuClipDecoder decoder(default_env());
  auto compare = [&](const std::vector<int64_t>& frames) {
    std::map<int64_t, std::string> seen;
    decoder.decode_frames(table, path, frames, [&](int64_t index, const AVFrame& frame) {
      EXPECT_FALSE(seen.contains(index)) << "frame " << index << " came twice";
      seen[index] = raw_md5(frame);
    });
    for (int64_t frame : frames) EXPECT_EQ(seen[frame], truth[size_t(frame)]) << "frame " << frame;
  };
  // Alone, with one decoder used again and again; sampled when the video is long.
  const int64_t step = std::max<int64_t>(1, table.frame_count() / int64_t(most_single));
  for (int64_t frame = 0; frame < table.frame_count(); frame += step) compare({frame});
  compare({table.frame_count() - 1});
  // Random sets, unordered, with repeats.
  Rng rng(7, Stream::kClip, std::hash<std::string>{}(path));
  for (int trial = 0; trial < 6; ++trial) {
    std::vector<int64_t> frames;
    for (int i = 0; i < 16; ++i)
      frames.push_back(int64_t(rng.below(uint64_t(table.frame_count()))));
    compare(frames);
  }
}

TEST(ExactDecode, EveryFrameOfEveryRealVideoEqualsSequentialDecode) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + "/real")) {
    expect_exact(entry.path().string(), 400);
    ++files;
  }
  EXPECT_GT(files, 0);
}

// Open GOPs and missing pts: leading B pictures must start from the point before their own.
TEST(ExactDecode, StreamsWithoutTimesAndWithOpenGopsAreExactToo) {
  const TempFolder folder;
  for (const char* output :
       {"-c:v mpeg4 -bf 2 -g 12 m4.avi", "-c:v mpeg2video -bf 2 -g 12 m2.mpg",
        "-c:v mpeg2video -bf 2 -g 12 -f mpeg2video m2.m2v", "-c:v libx264 -bf 2 -g 12 h264.avi",
        "-c:v libx264 -g 12 -x264-params open-gop=1 o.mkv",
        "-c:v libx264 -flags +ilme+ildct -x264-params tff=1 i.ts"}) {
    const std::string name = std::string(output).substr(std::string(output).find_last_of(' ') + 1);
    const std::string command =
        "cd '" + folder.path() +
        "' && ffmpeg -v error -y -f lavfi -i testsrc2=s=96x64:d=2:r=25 -pix_fmt yuv420p " + output +
        " 2>/dev/null";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    expect_exact(folder.path() + "/" + name, 100);
  }
}

TEST(ExactDecode, ClipsThatKeikoWritesAreReadBackExactly) {
  const TempFolder folder;
  Rng rng(1, Stream::kSynth, 0);
  for (int keyframe_interval : {250, 5, 1}) {
    std::vector<uint8_t> luma(32 * 32 * 40);
    for (size_t i = 0; i < luma.size(); ++i)
      luma[i] = uint8_t((i / 32 + i % 32 * 3 + rng.below(20)));
    EncoderOptions options;
    options.keyframe_interval = keyframe_interval;
    const auto bytes = encode_mp4(luma, options);
    EXPECT_EQ(bytes, encode_mp4(luma, options)) << "encoding is not repeatable";
    const std::string path = folder.path() + "/clip.mp4";
    publish(default_env(), path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const PacketTable table = scan_video(path);
    EXPECT_EQ(table.frame_count(), 40);
    EXPECT_TRUE(table.direct_read) << table.direct_read_off;
    EXPECT_TRUE(table.skipping) << table.skipping_off;
    expect_exact(path, 40);
  }
}

}  // namespace
}  // namespace keiko::media
