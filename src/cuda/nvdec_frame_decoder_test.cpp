// The decoder of GPU sessions, with no GPU behind it: which frames come out, and how often the
// hardware would have been opened.

#include "cuda/nvdec_frame_decoder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/clip_encoder.h"
#include "media/clip_frames.h"

namespace keiko::cuda {
namespace {

using media::PacketTable;
using Hashes = std::map<int64_t, std::string>;  // of the frames that came out, by index

// Every sample, and what turns samples into colours. The name of the format is left out: libavcodec
// keeps calling it yuvj420p where the last video had the full range, which no GPU surface does.
std::string fingerprint(const AVFrame& f) {
  return fmt::format("{} {}x{} range {} matrix {} site {}", media::raw_md5(f), f.width, f.height,
                     int(f.color_range), int(f.colorspace), int(f.chroma_location));
}

struct Video {
  std::string path;
  PacketTable table;
};

bool is_taken(const PacketTable& table) {
  return nvdec_session_key(table.stream, 4).has_value() && table.frame_count() > 0;
}

std::vector<Video> videos_in(const std::string& folder) {
  std::vector<Video> videos;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) {
    Video video{path, media::scan_video(path)};
    if (is_taken(video.table)) videos.push_back(std::move(video));
  }
  return videos;
}

std::vector<int64_t> random_frames(Rng& rng, int64_t count) {
  std::vector<int64_t> frames;
  const int64_t start = int64_t(rng.below(uint64_t(count)));
  const int64_t stride = 1 + int64_t(rng.below(6)), length = 1 + int64_t(rng.below(12));
  const bool scattered = rng.below(3) == 0;
  for (int64_t i = 0; i < length; ++i)
    frames.push_back(scattered ? int64_t(rng.below(uint64_t(count)))
                               : std::min(start + i * stride, count - 1));
  return frames;
}

// What a clip gives through a session, and how many frames came out of the decoder in all.
Hashes through(NvdecSession& session, media::ClipFrames& clips, const Video& video,
               const std::vector<int64_t>& frames, media::ClipCost* cost = nullptr) {
  Hashes hashes;
  std::unique_ptr<NvdecSession> alone;
  const HostDevice host;
  const media::ClipCost c = clips.decode(
      video.table, video.path, frames,
      [&]() -> media::FrameDecoder& {
        if (video.table.reuse_off.empty()) return session.begin(video.table.stream);
        alone = open_nvdec_session(host, video.table.stream, 4);
        return alone->begin(video.table.stream);
      },
      [&](int64_t index, const AVFrame& frame) {
        EXPECT_FALSE(hashes.contains(index)) << "frame " << index << " came twice";
        hashes[index] = fingerprint(frame);
      },
      media::Unwanted::kHidden);
  if (cost != nullptr) *cost = c;
  return hashes;
}

Hashes on_the_cpu(media::CpuClipDecoder& cpu, const Video& video,
                  const std::vector<int64_t>& frames, media::ClipCost* cost) {
  Hashes hashes;
  *cost = cpu.decode_frames(
      video.table, video.path, frames,
      [&](int64_t index, const AVFrame& frame) { hashes[index] = fingerprint(frame); });
  return hashes;
}

// Random clips of every video in random order, each through the session of its key. Returns how
// often the hardware would have been opened, and in `keys` how many sessions there were.
int64_t expect_same_frames(const std::vector<Video>& videos, int clips, size_t* keys = nullptr) {
  const HostDevice host;
  std::map<NvdecSessionKey, std::unique_ptr<NvdecSession>> sessions;
  media::ClipFrames reader(default_env());
  media::CpuClipDecoder cpu(default_env());
  Rng rng(11, Stream::kClip, videos.size());
  for (int c = 0; c < clips; ++c) {
    const Video& video = videos[rng.below(videos.size())];
    SCOPED_TRACE(video.path);
    auto& session = sessions[*nvdec_session_key(video.table.stream, 4)];
    if (!session) session = open_nvdec_session(host, video.table.stream, 4);
    const std::vector<int64_t> frames = random_frames(rng, video.table.frame_count());
    media::ClipCost ours, theirs;
    const Hashes hashes = through(*session, reader, video, frames, &ours);
    const Hashes wanted = on_the_cpu(cpu, video, frames, &theirs);
    EXPECT_EQ(ours.complaints > 0, theirs.complaints > 0);
    EXPECT_EQ(ours.packets_decoded, theirs.packets_decoded);
    // What stands in for lost pixels depends on what was decoded before; such a clip is bad anyway.
    if (theirs.complaints == 0) {
      EXPECT_EQ(hashes, wanted) << "clip " << c << " from frame " << frames.front();
    }
    if (testing::Test::HasFailure()) return -1;
  }
  if (keys != nullptr) *keys = sessions.size();
  int64_t opens = 0;
  for (const auto& [key, session] : sessions) opens += session->hardware_opens();
  return opens;
}

TEST(NvdecFrameDecoder, ClipsOfRealVideosEqualThoseOfTheCpuPath) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  const std::vector<Video> videos = videos_in(std::string(media) + "/real");
  ASSERT_GT(videos.size(), 10u);
  size_t keys = 0;
  const int64_t opens = expect_same_frames(videos, 150, &keys);
  EXPECT_EQ(opens, int64_t(keys)) << "the hardware was opened anew for the sake of a clip";
  EXPECT_LT(keys, videos.size()) << "no two videos shared a session";
}

TEST(NvdecFrameDecoder, ClipsOfAwkwardVideosEqualThoseOfTheCpuPath) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: odd videos are NOT tested";
  const std::vector<Video> videos = videos_in(std::string(media) + "/edge");
  ASSERT_GT(videos.size(), 5u);
  expect_same_frames(videos, 150);
}

// Why sessions are kept at all: libavcodec asks for the format, hence opens the hardware, at every
// flush.
TEST(NvdecFrameDecoder, WithoutKeepingTheSessionEveryClipOpensTheHardware) {
  const TempFolder folder;
  std::vector<uint8_t> luma(32 * 32 * 40);
  for (size_t i = 0; i < luma.size(); ++i) luma[i] = uint8_t(i * 7 + i / 900);
  const auto bytes = media::encode_mp4(luma, {});
  const std::string path = folder.path() + "/x.mp4";
  publish(default_env(), path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const PacketTable table = media::scan_video(path);
  for (const bool keeps : {false, true}) {
    int opens = 0;
    media::DecoderSetup setup;
    setup.keeps_session = keeps;
    setup.prepare = [&](AVCodecContext& context) {
      context.opaque = &opens;
      context.get_format = [](AVCodecContext* c, const AVPixelFormat* offered) {
        ++*static_cast<int*>(c->opaque);
        return avcodec_default_get_format(c, offered);
      };
    };
    media::FrameDecoder decoder(table.stream, media::LoopFilter::kExact,
                                media::FrameDecoder::Shows::kEverything, setup);
    media::ClipFrames clips(default_env());
    for (int64_t clip = 0; clip < 6; ++clip) {
      const int64_t frames[2] = {clip, 39 - clip};
      clips.decode(
          table, path, frames,
          [&]() -> media::FrameDecoder& {
            decoder.restart();
            return decoder;
          },
          [](int64_t, const AVFrame&) {});
    }
    EXPECT_EQ(opens, keeps ? 1 : 6);
  }
}

// Videos that the ffmpeg command line makes, each to break one assumption.
struct Made {
  const char* name;
  const char* recipe;   // shell; $SRC is a moving, noisy source
  bool one_open;        // all clips follow each other in one hardware session
  bool hides_unwanted;  // libavcodec's software decoder shows nothing of a hidden packet
};

void PrintTo(const Made& made, std::ostream* out) { *out << made.name; }

class NvdecFrameDecoderOf : public testing::TestWithParam<Made> {};

// Which packets' frames came out of the decoder while clips were decoded, and which were asked for.
void expect_only_wanted(const Video& video, const std::vector<int64_t>& frames) {
  const HostDevice host;
  const auto session = open_nvdec_session(host, video.table.stream, 4);
  const media::DecodePlan plan = media::plan_decode(video.table, frames);
  std::set<uint32_t> wanted, out;
  for (uint32_t frame : plan.frames) wanted.insert(video.table.frame_packet[frame]);
  media::DemuxedPackets packets(default_env(), video.table, video.path);
  media::feed_plan(
      video.table, plan, packets,
      [&]() -> media::FrameDecoder& { return session->begin(video.table.stream); },
      [&](uint32_t ordinal, const AVFrame&) { out.insert(ordinal); }, [] { return false; },
      media::Unwanted::kHidden);
  EXPECT_EQ(out, wanted);
}

TEST_P(NvdecFrameDecoderOf, ClipsEqualThoseOfTheCpuPath) {
  if (std::system("ffmpeg -version > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "no ffmpeg command line: made videos are NOT tested";
  const Made& made = GetParam();
  const TempFolder folder;
  const std::string command =
      "cd '" + folder.path() +
      "' && SRC='-f lavfi -i testsrc2=s=96x64:d=2:r=25,noise=alls=12:allf=t+u:all_seed=1,"
      "format=yuv420p' && FF='ffmpeg -nostdin -v error -y' && " +
      made.recipe + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const std::string path = folder.path() + "/" + made.name;
  const std::vector<Video> videos = {{path, media::scan_video(path)}};
  ASSERT_TRUE(is_taken(videos[0].table));
  const int64_t opens = expect_same_frames(videos, 80);
  if (made.one_open) {
    EXPECT_EQ(opens, 1);
  }
  if (made.hides_unwanted) {
    Rng rng(2, Stream::kClip, 0);
    for (int c = 0; c < 20; ++c)
      expect_only_wanted(videos[0], random_frames(rng, videos[0].table.frame_count()));
  }
}

constexpr Made kMade[] = {
    // H.264
    {"gop.mp4", "$FF $SRC -c:v libx264 -g 12 -bf 3 gop.mp4", true, true},
    {"pyramid.mkv",
     "$FF $SRC -c:v libx264 -g 30 -bf 7 -x264-params b-pyramid=normal:ref=6:weightp=2 pyramid.mkv",
     true, true},
    {"no_delay.mp4", "$FF $SRC -c:v libx264 -g 12 -tune zerolatency no_delay.mp4", true, true},
    {"one_gop.mp4", "$FF $SRC -c:v libx264 -g 250 -bf 3 one_gop.mp4", true, true},
    // Starts that are no IDR pictures, and maps that were seen by decoding: flushes, no hiding.
    {"open_gop.mkv", "$FF $SRC -c:v libx264 -g 12 -bf 3 -x264-params open-gop=1 open_gop.mkv",
     false, false},
    {"refresh.mp4", "$FF $SRC -c:v libx264 -g 12 -x264-params intra-refresh=1 refresh.mp4", false,
     false},
    {"transport.ts", "$FF $SRC -c:v libx264 -g 12 transport.ts", false, false},
    {"no_pts.avi", "$FF $SRC -c:v libx264 -bf 2 -g 12 no_pts.avi", false, false},
    {"interlaced.ts",
     "$FF $SRC -c:v libx264 -g 12 -flags +ilme+ildct -x264-params tff=1 interlaced.ts", false,
     false},
    {"joined.mkv",
     "$FF $SRC -c:v libx264 -g 12 -qp 15 -coder 0 a.mkv && $FF $SRC -c:v libx264 -g 12 -qp 35 "
     "-coder 0 b.ts && $FF -i b.ts -c copy b.mkv && echo file a.mkv > l.txt && "
     "echo file b.mkv >> l.txt && $FF -f concat -auto_convert 0 -i l.txt -c copy joined.mkv",
     false, false},
    // HEVC: x265 opens its GOPs unless told otherwise
    {"cra.mkv", "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 cra.mkv",
     true, true},
    {"idr.mp4",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:no-open-gop=1 -tag:v hvc1 "
     "idr.mp4",
     true, true},
    {"radl.mp4",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:open-gop=0:radl=2 radl.mp4", true,
     true},
    {"layers.mkv",
     "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=24:temporal-layers=1 layers.mkv",
     true, true},
    {"hevc.ts", "$FF $SRC -c:v libx265 -x265-params log-level=none:keyint=12:min-keyint=12 hevc.ts",
     false, false},
    // VP9 and AV1: pictures that are decoded in one packet and shown by another
    {"plain.webm", "$FF $SRC -c:v libvpx-vp9 -g 12 -auto-alt-ref 0 -b:v 300k plain.webm", true,
     true},
    {"super.webm",
     "for pass in 1 2; do $FF $SRC -c:v libvpx-vp9 -g 25 -auto-alt-ref 6 -lag-in-frames 25 "
     "-b:v 60k -cpu-used 4 -pass $pass super.webm; done",
     true, false},
    // libdav1d hides nothing; libavcodec's own decoder of AV1 needs hardware.
    {"aom.mkv", "$FF $SRC -c:v libaom-av1 -cpu-used 8 -g 12 -lag-in-frames 19 -b:v 300k aom.mkv",
     false, false},
    {"svt.mp4", "SVT_LOG=0 $FF $SRC -c:v libsvtav1 -preset 10 -g 16 svt.mp4", false, false},
};

INSTANTIATE_TEST_SUITE_P(MadeVideos, NvdecFrameDecoderOf, testing::ValuesIn(kMade),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace keiko::cuda
