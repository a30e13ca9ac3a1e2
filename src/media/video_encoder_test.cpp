// Packed videos: what the encoder writes, what scaling keeps, and how near it stays to the source,
// by the ffmpeg command line's own figures.

#include "media/video_encoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "base/env.h"
#include "base/error.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/quality.h"

namespace keiko::media {
namespace {

Env* const env = default_env();

std::string shell(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  EXPECT_EQ(::pclose(pipe), 0) << command << "\n" << text;
  return text;
}

// The number behind `name` in a filter's last line, such as "SSIM Y:0.98".
double figure(const std::string& text, const std::string& name) {
  const size_t at = text.rfind(name);
  EXPECT_NE(at, std::string::npos) << name << " is not in: " << text;
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + name.size());
}

std::vector<int64_t> all_frames(const PacketTable& table) {
  std::vector<int64_t> frames(size_t(table.frame_count()));
  std::iota(frames.begin(), frames.end(), int64_t{0});
  return frames;
}

// Encodes a whole video into `out`, and returns the luma planes that went in when asked for.
void encode(const std::string& source, VideoEncoderOptions o, int short_side,
            const std::string& out, std::vector<std::vector<uint8_t>>* luma = nullptr) {
  const PacketTable table = scan_video(source);
  o.format = scaled_format(table.stream, short_side);
  o.rotation = table.stream.rotation;
  FrameScaler scaler(table.stream, o.format);
  VideoEncoder encoder(env, out, o);
  CpuClipDecoder(env).decode_frames(
      table, source, all_frames(table), [&](int64_t index, const AVFrame& frame) {
        const AVFrame& picture = scaler.scale(frame);
        encoder.add(picture, index);
        if (luma == nullptr) return;
        luma->emplace_back();
        for (int y = 0; y < picture.height; ++y)
          luma->back().insert(luma->back().end(), picture.data[0] + y * picture.linesize[0],
                              picture.data[0] + y * picture.linesize[0] + picture.width);
      });
  const int64_t size = encoder.finish();
  EXPECT_EQ(size, env->status(out).size);
}

class VideoEncoderTest : public testing::Test {
 protected:
  void SetUp() override {
    source_ = folder_.path() + "/source.mp4";
    shell(
        "ffmpeg -v error -y -f lavfi -i testsrc2=s=320x180:d=3:r=25 -pix_fmt yuv420p "
        "-c:v libx264 -color_range tv -colorspace bt709 -color_primaries bt709 -color_trc bt709 " +
        source_);
  }
  TempFolder folder_;
  std::string source_;
};

TEST_F(VideoEncoderTest, TheSamePicturesGiveTheSameBytes) {
  for (const EncoderProfile profile : {EncoderProfile::kFast, EncoderProfile::kSmall}) {
    VideoEncoderOptions o;
    o.profile = profile;
    const std::string out = folder_.path() + "/out.mp4";
    encode(source_, o, 90, out);
    const std::string first = read_text(env, out);
    for (int i = 0; i < 3; ++i) {
      encode(source_, o, 90, out);
      EXPECT_EQ(first, read_text(env, out));
    }
  }
}

TEST_F(VideoEncoderTest, FastFilesSkipMostPacketsAndKeepTheirGroupsShort) {
  VideoEncoderOptions o;
  o.gop = 16;
  encode(source_, o, 0, folder_.path() + "/out.mp4");
  const PacketTable t = scan_video(folder_.path() + "/out.mp4");
  EXPECT_TRUE(t.direct_read) << t.direct_read_off;
  EXPECT_TRUE(t.skipping) << t.skipping_off;
  EXPECT_FALSE(t.mapped_by_decoding);
  ASSERT_EQ(t.frame_count(), 75);
  int64_t droppable = 0, since_start = 0;
  for (const uint8_t flags : t.flags) {
    droppable += (flags & kDroppable) != 0;
    since_start = (flags & kRandomAccess) ? 0 : since_start + 1;
    EXPECT_LT(since_start, 16);
  }
  EXPECT_GE(droppable, 55);
  EXPECT_NEAR(t.stream.frames_per_second(), 25, 1e-9);
}

TEST_F(VideoEncoderTest, SizeColourAndRotationAreWrittenAsTheyWere) {
  const std::string turned = folder_.path() + "/turned.mp4";
  shell("ffmpeg -v error -y -i " + source_ + " -c copy -metadata:s:v:0 rotate=90 " + turned);
  encode(turned, {}, 64, folder_.path() + "/out.mp4");
  const PacketTable in = scan_video(turned), out = scan_video(folder_.path() + "/out.mp4");
  EXPECT_NE(in.stream.rotation, 0);
  EXPECT_EQ(out.stream.rotation, in.stream.rotation);
  EXPECT_EQ(out.stream.height, 64);
  EXPECT_EQ(out.stream.width, 114);
  EXPECT_EQ(out.stream.color_range, in.stream.color_range);
  EXPECT_EQ(out.stream.color_space, in.stream.color_space);
  EXPECT_EQ(out.stream.color_primaries, in.stream.color_primaries);
  EXPECT_EQ(out.stream.color_transfer, in.stream.color_transfer);
  EXPECT_EQ(out.stream.pixel_format, "yuv420p");
}

TEST(ScaledFormat, NeverEnlargesAndMakesPixelsSquare) {
  StreamParameters s;
  s.pixel_format = "yuv420p";
  const auto size = [&](int w, int h, int sar_num, int sar_den, int short_side) {
    s.width = w;
    s.height = h;
    s.sample_aspect_num = sar_num;
    s.sample_aspect_den = sar_den;
    const ScaledFormat f = scaled_format(s, short_side);
    return std::pair(f.width, f.height);
  };
  EXPECT_EQ(size(640, 480, 1, 1, 256), std::pair(342, 256));
  EXPECT_EQ(size(480, 640, 1, 1, 256), std::pair(256, 342));
  EXPECT_EQ(size(320, 180, 1, 1, 256), std::pair(320, 180));
  EXPECT_EQ(size(321, 181, 1, 1, 0), std::pair(320, 180));
  EXPECT_EQ(size(176, 144, 128, 117, 256), std::pair(176, 132));
  EXPECT_EQ(size(720, 576, 1, 2, 0), std::pair(360, 576));
  EXPECT_EQ(size(1, 1, 1, 1, 256), std::pair(2, 2));
}

// The truth is ffmpeg's scale filter with the same flags; 10-bit, 4:4:4 and grey sources too.
TEST_F(VideoEncoderTest, ScalingEqualsFfmpegsScaleFilter) {
  for (const char* format : {"yuv420p", "yuvj420p", "yuv420p10le", "yuv444p", "gray"}) {
    SCOPED_TRACE(format);
    const std::string path = folder_.path() + "/f.mkv", raw = folder_.path() + "/f.yuv";
    shell("ffmpeg -v error -y -f lavfi -i testsrc2=s=320x180:d=0.4:r=25 -pix_fmt " +
          std::string(format) + " -c:v ffv1 " + path);
    // Both sides say full range, so that the filter converts no range either.
    shell("ffmpeg -v error -y -i " + path +
          " -vf 'scale=160:90:flags=bicubic+accurate_rnd+bitexact+full_chroma_int:sws_dither=none:"
          "in_range=full:out_range=full:in_h_chr_pos=" +
          std::string(format == std::string("yuv444p") ? "-513" : "0") +
          ":out_h_chr_pos=0:out_v_chr_pos=128',format=yuv420p -f rawvideo " + raw);
    const std::string truth = read_text(env, raw);
    const PacketTable table = scan_video(path);
    FrameScaler scaler(table.stream, scaled_format(table.stream, 90));
    double squares = 0;
    int64_t count = 0;
    CpuClipDecoder(env).decode_frames(
        table, path, all_frames(table), [&](int64_t index, const AVFrame& frame) {
          const AVFrame& picture = scaler.scale(frame);
          ASSERT_EQ(picture.width, 160);
          ASSERT_EQ(picture.height, 90);
          const char* want = truth.data() + index * (160 * 90 * 3 / 2);
          for (int plane = 0; plane < 3; ++plane)
            for (int y = 0; y < (plane ? 45 : 90); ++y)
              for (int x = 0; x < (plane ? 80 : 160); ++x) {
                const double d = double(picture.data[plane][y * picture.linesize[plane] + x]) -
                                 double(uint8_t(*want++));
                squares += d * d;
                ++count;
              }
        });
    EXPECT_EQ(count, int64_t(truth.size()));
    EXPECT_LT(std::sqrt(squares / double(count)), 0.6);
  }
}

TEST_F(VideoEncoderTest, PsnrAndSsimAreThoseOfTheFfmpegCommandLine) {
  std::vector<std::vector<uint8_t>> before;
  VideoEncoderOptions o;
  o.crf = 35;
  const std::string out = folder_.path() + "/out.mp4";
  encode(source_, o, 0, out, &before);
  const PacketTable table = scan_video(out);
  double error = 0, ssim = 0;
  CpuClipDecoder(env).decode_frames(
      table, out, all_frames(table), [&](int64_t index, const AVFrame& frame) {
        const Plane a{before[size_t(index)].data(), frame.width, frame.width, frame.height};
        const Plane b{frame.data[0], frame.linesize[0], frame.width, frame.height};
        error += mean_squared_error(a, b) / 75;
        ssim += structural_similarity(a, b) / 75;
        EXPECT_EQ(structural_similarity(b, b), 1);
      });
  const std::string pair = "ffmpeg -i " + out + " -i " + source_ + " -lavfi ";
  EXPECT_NEAR(psnr_of(error), figure(shell(pair + "psnr -f null -"), "PSNR y:"), 2e-4);
  EXPECT_NEAR(ssim, figure(shell(pair + "ssim -f null -"), "SSIM Y:"), 2e-5);
  EXPECT_LT(ssim, 0.99);
}

}  // namespace
}  // namespace keiko::media
