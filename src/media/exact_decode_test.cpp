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

struct Truth {
  std::vector<std::string> md5;  // of the raw planes of every frame, in presentation order
  std::vector<int64_t> pts;      // ticks of the stream, kNoTime where ffmpeg has none
};

// What the ffmpeg command line decodes from first to last.
Truth ffmpeg_frames(const std::string& path, int stream) {
  const std::string command = "ffmpeg -v error -noautorotate -threads 1 -copyts -i '" + path +
                              "' -map 0:" + std::to_string(stream) +
                              " -vsync passthrough -autoscale 0 -enc_time_base -1 -f framemd5 - "
                              "2>/dev/null";
  Truth truth;
  FILE* pipe = ::popen(command.c_str(), "r");
  char line[512];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) {
    if (line[0] == '#') continue;
    // stream, dts, pts, duration, size, md5
    std::string text(line);
    text.erase(text.find_last_not_of(" \n") + 1);
    truth.md5.push_back(text.substr(text.find_last_of(' ') + 1));
    long long pts = 0;
    const bool has_pts = std::sscanf(text.c_str(), "%*d, %*[^,], %lld,", &pts) == 1;
    truth.pts.push_back(has_pts ? pts : kNoTime);
  }
  ::pclose(pipe);
  return truth;
}

bool has_ffmpeg() { return std::system("ffmpeg -version > /dev/null 2>&1") == 0; }

// Every frame alone (`most_single` of them when the video is long), then sets in every order, with
// one decoder used again and again. Returns the table.
PacketTable expect_exact(const std::string& path, size_t most_single) {
  SCOPED_TRACE(path);
  const PacketTable table = scan_video(path);
  const Truth truth = ffmpeg_frames(path, table.stream.stream_index);
  EXPECT_EQ(size_t(table.frame_count()), truth.md5.size());
  if (size_t(table.frame_count()) != truth.md5.size()) return table;
  const bool has_times =
      std::none_of(table.pts.begin(), table.pts.end(), [](int64_t pts) { return pts == kNoTime; });
  // ffmpeg also takes pts that go back for a new recording, but carries on in its own way.
  const bool goes_on =
      std::is_sorted(table.frame_packet.begin(), table.frame_packet.end(),
                     [&](uint32_t a, uint32_t b) { return table.pts[a] < table.pts[b]; });
  for (size_t f = 0; has_times && goes_on && f < truth.pts.size(); ++f)
    EXPECT_EQ(table.frame_pts[f], truth.pts[f]) << "time of frame " << f;
  EXPECT_TRUE(std::is_sorted(table.frame_pts.begin(), table.frame_pts.end()));
  CpuClipDecoder decoder(default_env());
  int64_t compared = 0;
  auto compare = [&](const std::vector<int64_t>& frames) {
    std::map<int64_t, std::string> seen;
    decoder.decode_frames(table, path, frames, [&](int64_t index, const AVFrame& frame) {
      EXPECT_FALSE(seen.contains(index)) << "frame " << index << " came twice";
      seen[index] = raw_md5(frame);
    });
    for (const auto& [frame, md5] : seen)
      EXPECT_EQ(md5, truth.md5[size_t(frame)]) << "frame " << frame << " of " << frames.size();
    for (int64_t frame : frames) EXPECT_TRUE(seen.contains(frame)) << "frame " << frame;
    compared += int64_t(seen.size());
  };
  const int64_t count = table.frame_count();
  const int64_t step = std::max<int64_t>(1, count / int64_t(most_single));
  for (int64_t frame = 0; frame < count; frame += step) compare({frame});
  compare({count - 1});
  compare({0});
  compare({count - 1, 0, count - 1, 0});
  Rng rng(7, Stream::kClip, std::hash<std::string>{}(path));
  for (int trial = 0; trial < 8; ++trial) {
    std::vector<int64_t> frames;
    for (int i = 0; i < 16; ++i) frames.push_back(int64_t(rng.below(uint64_t(count))));
    compare(frames);
    // A clip, backwards.
    const int64_t stride = 1 + int64_t(rng.below(4)), start = int64_t(rng.below(uint64_t(count)));
    frames.clear();
    for (int i = 15; i >= 0; --i) frames.push_back(std::min(start + i * stride, count - 1));
    compare(frames);
  }
  std::printf("%-40s %5lld frames, %6lld compared, direct read %s, skipping %s%s\n",
              path.substr(path.find_last_of('/') + 1).c_str(), (long long)count,
              (long long)compared, table.direct_read ? "on" : table.direct_read_off.c_str(),
              table.skipping ? "on" : table.skipping_off.c_str(),
              table.mapped_by_decoding ? ", mapped by decoding" : "");
  return table;
}

int64_t count_flag(const PacketTable& table, uint8_t flag) {
  return std::count_if(table.flags.begin(), table.flags.end(),
                       [&](uint8_t f) { return (f & flag) != 0; });
}

TEST(ExactDecode, EveryFrameOfEveryRealVideoEqualsSequentialDecode) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + "/real")) {
    const PacketTable table = expect_exact(entry.path().string(), 400);
    EXPECT_TRUE(table.direct_read) << entry.path() << ": " << table.direct_read_off;
    EXPECT_TRUE(table.skipping) << entry.path() << ": " << table.skipping_off;
    EXPECT_FALSE(table.mapped_by_decoding) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST(ExactDecode, EveryFrameOfEveryAwkwardVideoEqualsSequentialDecode) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: odd videos are NOT tested";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + "/edge")) {
    expect_exact(entry.path().string(), 1000);
    ++files;
  }
  EXPECT_GT(files, 0);
}

// Videos that the ffmpeg command line makes, each to break one assumption.
struct Made {
  const char* name;    // of the file to be read
  const char* recipe;  // shell; $SRC is a moving, noisy source, $B are flags for repeatable bytes
  int least_points;    // random-access points that must be found
  bool direct_read, skipping;
};

void PrintTo(const Made& made, std::ostream* out) { *out << made.name; }

class ExactDecodeOf : public testing::TestWithParam<Made> {};

TEST_P(ExactDecodeOf, EveryFrameEqualsSequentialDecode) {
  if (!has_ffmpeg()) GTEST_SKIP() << "no ffmpeg command line: made videos are NOT tested";
  const Made& made = GetParam();
  const TempFolder folder;
  const std::string command =
      "cd '" + folder.path() +
      "' && SRC='-f lavfi -i testsrc2=s=96x64:d=2:r=25,noise=alls=12:allf=t+u:all_seed=1,"
      "format=yuv420p' && FF='ffmpeg -v error -y' && " +
      made.recipe + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const PacketTable table = expect_exact(folder.path() + "/" + made.name, 200);
  EXPECT_GE(count_flag(table, kRandomAccess), made.least_points);
  EXPECT_EQ(table.direct_read, made.direct_read) << table.direct_read_off;
  EXPECT_EQ(table.skipping, made.skipping) << table.skipping_off;
  if (made.skipping) {
    EXPECT_GT(count_flag(table, kDroppable), 0) << "nothing could be left out";
  }
}

constexpr Made kMade[] = {
    // H.264
    {"gop.mp4", "$FF $SRC -c:v libx264 -g 12 -bf 3 gop.mp4", 4, true, true},
    {"fragmented.mp4",
     "$FF $SRC -c:v libx264 -g 12 -movflags frag_keyframe+empty_moov fragmented.mp4", 4, true,
     true},
    {"transport.ts", "$FF $SRC -c:v libx264 -g 12 transport.ts", 4, false, true},
    {"begins_late.ts",
     "$FF $SRC -c:v libx264 -g 12 whole.ts && tail -c +18801 whole.ts > begins_late.ts", 2, false,
     true},
    {"no_pts.avi", "$FF $SRC -c:v libx264 -bf 2 -g 12 no_pts.avi", 4, true, true},
    {"open_gop.mkv", "$FF $SRC -c:v libx264 -g 12 -bf 3 -x264-params open-gop=1 open_gop.mkv", 4,
     true, true},
    {"refresh.mp4", "$FF $SRC -c:v libx264 -g 12 -x264-params intra-refresh=1 refresh.mp4", 1, true,
     true},
    {"pyramid.mkv",
     "$FF $SRC -c:v libx264 -g 30 -bf 7 -x264-params b-pyramid=normal:ref=6:weightp=2 pyramid.mkv",
     2, true, true},
    {"full_chroma.mp4",
     "$FF $SRC -c:v libx264 -crf 30 -pix_fmt yuv444p -g 12 -bf 2 full_chroma.mp4", 4, true, true},
    {"interlaced.ts",
     "$FF $SRC -c:v libx264 -g 12 -flags +ilme+ildct -x264-params tff=1 interlaced.ts", 4, false,
     true},
    {"variable_rate.mp4",
     "$FF $SRC -vf \"select='not(mod(n,3))+eq(mod(n,7),2)'\" -vsync vfr -c:v libx264 -g 9 "
     "variable_rate.mp4",
     2, true, true},
    {"cut.mp4", "$FF $SRC -c:v libx264 -g 25 whole.mp4 && $FF -ss 0.7 -i whole.mp4 -c copy cut.mp4",
     2, true, true},
    {"late_start.mkv", "$FF -itsoffset 3.3 $SRC -c:v libx264 -g 12 late_start.mkv", 4, true, true},
    {"cropped.mp4",
     "$FF $SRC -c:v libx264 -g 12 -bsf:v "
     "h264_metadata=crop_left=6:crop_top=2:crop_right=4:crop_bottom=4 cropped.mp4",
     4, true, true},
    {"two_sizes.h264",
     "$FF $SRC -c:v libx264 -g 12 a.h264 && $FF $SRC -vf scale=128:80 -c:v libx264 -g 12 b.h264 && "
     "cat a.h264 b.h264 > two_sizes.h264",
     4, true, true},
    {"two_sizes.ts",
     "$FF $SRC -c:v libx264 -g 12 a.ts && $FF $SRC -vf scale=64:48 -c:v libx264 -g 12 b.ts && "
     "cat a.ts b.ts > two_sizes.ts",
     4, false, true},
    // Another encoder's parameters from the middle on, in-band, under the same ids.
    {"joined.mkv",
     "$FF $SRC -c:v libx264 -g 12 -qp 15 -coder 0 a.mkv && $FF $SRC -c:v libx264 -g 12 -qp 35 "
     "-coder 0 b.ts && $FF -i b.ts -c copy b.mkv && echo file a.mkv > l.txt && "
     "echo file b.mkv >> l.txt && $FF -f concat -auto_convert 0 -i l.txt -c copy joined.mkv",
     4, true, true},
    {"ten_bits.mkv", "$FF $SRC -pix_fmt yuv422p10 -c:v libx264 -g 12 ten_bits.mkv", 4, true, true},
    // HEVC: x265 opens its GOPs unless told otherwise
    {"cra.mkv", "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 cra.mkv",
     4, true, true},
    {"cra_first.mkv",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 whole.mkv && "
     "$FF -ss 0.6 -i whole.mkv -c copy cra_first.mkv",
     2, true, true},
    {"idr.mp4",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:no-open-gop=1 -tag:v hvc1 "
     "idr.mp4",
     4, true, true},
    {"radl.mp4",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:open-gop=0:radl=2 "
     "radl.mp4",
     4, true, true},
    {"layers.mkv",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=24:temporal-layers=1 layers.mkv", 2,
     true, true},
    {"fields.mkv",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=24:interlace=tff fields.mkv", 2,
     true, true},
    {"hevc.ts", "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 hevc.ts",
     4, false, true},
    {"hevc_cropped.mp4",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12 -bsf:v "
     "hevc_metadata=crop_left=6:crop_top=2 hevc_cropped.mp4",
     4, true, true},
    // VP8, VP9
    {"hidden.webm",
     "$FF $SRC -c:v libvpx -g 12 -auto-alt-ref 1 -lag-in-frames 16 -b:v 300k hidden.webm", 4, true,
     false},
    {"super.webm",
     "$FF $SRC -c:v libvpx-vp9 -g 12 -auto-alt-ref 6 -lag-in-frames 25 -b:v 300k -cpu-used 4 "
     "super.webm",
     4, true, false},
    {"super.mp4",
     "$FF $SRC -c:v libvpx-vp9 -g 12 -auto-alt-ref 1 -lag-in-frames 25 -b:v 300k -cpu-used 4 "
     "super.mp4",
     4, true, false},
    {"layers.webm",
     "$FF $SRC -c:v libvpx-vp9 -g 24 -error-resilient 1 -deadline realtime -cpu-used 8 -b:v 300k "
     "-ts-parameters ts_number_layers=3:ts_target_bitrate=100,200,300:ts_rate_decimator=4,2,1:"
     "ts_periodicity=4:ts_layer_id=0,2,1,2:ts_layering_mode=3 layers.webm",
     2, true, false},
    {"vp9.ivf", "$FF $SRC -c:v libvpx-vp9 -g 12 -b:v 300k -cpu-used 4 vp9.ivf", 4, true, false},
    // AV1
    {"aom.mkv", "$FF $SRC -c:v libaom-av1 -cpu-used 8 -g 12 -lag-in-frames 19 -b:v 300k aom.mkv", 4,
     true, true},
    {"aom.mp4", "$FF $SRC -c:v libaom-av1 -cpu-used 8 -g 25 -lag-in-frames 19 -b:v 300k aom.mp4", 2,
     true, true},
    {"svt.mp4", "SVT_LOG=0 $FF $SRC -c:v libsvtav1 -preset 10 -g 16 svt.mp4", 2, true, true},
    {"aom.obu", "$FF $SRC -c:v libaom-av1 -cpu-used 8 -g 12 -lag-in-frames 19 -b:v 300k aom.obu", 1,
     true, true},
    // Older codecs
    {"mpeg4.avi", "$FF $SRC -c:v mpeg4 -bf 2 -g 12 mpeg4.avi", 4, true, true},
    {"xvid.avi", "$FF $SRC -c:v libxvid -bf 2 -g 12 xvid.avi", 4, true, false},
    {"mpeg4.mp4", "$FF $SRC -c:v mpeg4 -bf 2 -g 12 mpeg4.mp4", 4, true, true},
    {"mpeg2.mpg", "$FF $SRC -c:v mpeg2video -bf 2 -g 12 mpeg2.mpg", 4, false, true},
    {"mpeg2.m2v", "$FF $SRC -c:v mpeg2video -bf 2 -g 12 -f mpeg2video mpeg2.m2v", 4, true, true},
    {"mpeg2_interlaced.ts",
     "$FF $SRC -c:v mpeg2video -bf 2 -g 12 -flags +ilme+ildct mpeg2_interlaced.ts", 4, false, true},
    {"mpeg2.mkv", "$FF $SRC -c:v mpeg2video -bf 2 -g 12 mpeg2.mkv", 4, true, true},
    {"mpeg1.mpg", "$FF $SRC -c:v mpeg1video -bf 2 -g 12 mpeg1.mpg", 4, false, true},
    {"flash.flv", "$FF $SRC -c:v flv -g 12 flash.flv", 4, true, false},
    {"windows.wmv", "$FF $SRC -c:v wmv2 -g 12 windows.wmv", 4, false, false},
    {"theora.ogv", "$FF $SRC -c:v libtheora -g 12 theora.ogv", 4, false, false},
    {"phone.3gp", "$FF $SRC -vf scale=176:144 -c:v h263 -g 12 phone.3gp", 4, true, false},
    {"intra.mov", "$FF $SRC -c:v prores intra.mov", 40, true, false},
    {"intra.avi", "$FF $SRC -c:v mjpeg intra.avi", 40, true, false},
    {"ffv1.mkv", "$FF $SRC -c:v ffv1 -g 12 ffv1.mkv", 4, true, false},
    {"palette.gif", "$FF $SRC palette.gif", 1, true, false},
};

INSTANTIATE_TEST_SUITE_P(MadeVideos, ExactDecodeOf, testing::ValuesIn(kMade), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

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
