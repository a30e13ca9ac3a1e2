#include "cuda/nvdec_session_key.h"

#include <gtest/gtest.h>

namespace keiko::cuda {
namespace {

media::StreamParameters stream_of(const char* codec, const char* format, int width, int height) {
  media::StreamParameters s;
  s.codec = codec;
  s.pixel_format = format;
  s.width = width;
  s.height = height;
  s.profile = 100;
  s.level = 40;
  s.reorder_depth = 2;
  s.extradata = {1, 2, 3};
  return s;
}

// A Hopper, as NVIDIA's support matrix describes it.
NvdecCaps hopper(const std::string& codec, Chroma chroma, int bit_depth) {
  NvdecCaps caps{true, 7, 48, 16, 8192, 8192, 262144};
  if (codec == "h264")
    caps = {chroma == Chroma::k420 && bit_depth == 8, 7, 48, 16, 4096, 4096, 65536};
  else if (codec == "hevc")
    caps.is_supported = (chroma == Chroma::k420 || chroma == Chroma::k444) && bit_depth <= 12;
  else
    caps.is_supported = chroma == Chroma::k420 && bit_depth <= 12;
  return caps;
}

TEST(NvdecSessionKey, IsEqualWhereOneSessionServesBothVideos) {
  const media::StreamParameters a = stream_of("h264", "yuv420p", 1280, 720);
  media::StreamParameters b = a;
  // What arrives with the parameter sets, or concerns only what is done with the frames.
  b.extradata = {1, 5, 5, 5};
  b.time_base_den = 90000;
  b.frame_rate_num = 24;
  b.rotation = 90;
  b.color_space = 1;
  b.sample_aspect_num = 4;
  b.stream_index = 1;
  b.format_name = "matroska,webm";
  b.pixel_format = "yuvj420p";  // full range is not another format
  EXPECT_EQ(nvdec_session_key(a, 4), nvdec_session_key(b, 4));
}

TEST(NvdecSessionKey, DiffersWhereASessionIsOpenedAnew) {
  const media::StreamParameters a = stream_of("hevc", "yuv420p", 1280, 720);
  const auto key = nvdec_session_key(a, 4);
  const auto expect_other = [&](auto change) {
    media::StreamParameters b = a;
    change(b);
    EXPECT_NE(nvdec_session_key(b, 4), key);
  };
  expect_other([](auto& s) { s.codec = "h264"; });
  expect_other([](auto& s) { s.profile = 2; });
  expect_other([](auto& s) { s.width = 1282; });
  expect_other([](auto& s) { s.height = 718; });
  expect_other([](auto& s) { s.pixel_format = "yuv420p10le"; });
  expect_other([](auto& s) { s.pixel_format = "yuv444p"; });
  expect_other([](auto& s) { s.extradata.clear(); });
  EXPECT_NE(nvdec_session_key(a, 5), key) << "more surfaces are kept from the decoder";
}

TEST(NvdecSessionKey, SurfacesHoldWhatTheStandardLetsAStreamKeep) {
  // Level 4.0 of H.264 keeps 4 pictures of 1920x1088; 2 more wait, 5 are libavcodec's, 4 are
  // mapped.
  EXPECT_EQ(surfaces_of(stream_of("h264", "yuv420p", 1920, 1080), 4), 4 + 2 + 5 + 4);
  EXPECT_EQ(surfaces_of(stream_of("vp9", "yuv420p", 1920, 1080), 4), 8 + 5 + 4);
  media::StreamParameters unknown = stream_of("h264", "yuv420p", 320, 240);
  unknown.level = -99;
  EXPECT_EQ(surfaces_of(unknown, 4), 16 + 2 + 5 + 4);
  unknown.reorder_depth = 16;
  EXPECT_EQ(surfaces_of(unknown, 16), 32) << "NVDEC takes no more";
  media::StreamParameters hevc = stream_of("hevc", "yuv420p", 1920, 1080);
  hevc.level = 120;
  EXPECT_EQ(surfaces_of(hevc, 0), 7 + 5);
}

TEST(NvdecSessionKey, MemoryGrowsWithSizeDepthAndChroma) {
  const auto bytes = [](const char* codec, const char* format, int width, int height) {
    return estimated_bytes(*nvdec_session_key(stream_of(codec, format, width, height), 4));
  };
  const int64_t hd = bytes("hevc", "yuv420p", 1920, 1080);
  // 21 surfaces of 2048 x 1088 x 1.5 bytes, decoded and mapped.
  EXPECT_EQ(hd, (int64_t{32} << 20) + 2 * surfaces_of(stream_of("hevc", "yuv420p", 1920, 1080), 4) *
                                          int64_t{2048} * 1088 * 3 / 2);
  EXPECT_GT(bytes("hevc", "yuv420p10le", 1920, 1080), hd * 3 / 2);
  EXPECT_GT(bytes("hevc", "yuv444p", 1920, 1080), hd * 3 / 2);
  EXPECT_LT(bytes("hevc", "yuv420p", 640, 360), hd / 2);
}

TEST(NvdecSupport, TakesWhatTheDriverTakes) {
  for (const char* codec : {"h264", "hevc", "vp9", "av1"})
    EXPECT_EQ(why_not_nvdec(stream_of(codec, "yuv420p", 1280, 720), hopper), "");
  EXPECT_EQ(why_not_nvdec(stream_of("hevc", "yuv444p10le", 1280, 720), hopper), "");
}

TEST(NvdecSupport, SaysWhatItDoesNotTakeAndTheValueSeen) {
  const auto why = [](media::StreamParameters s) { return why_not_nvdec(s, hopper); };
  EXPECT_EQ(why(stream_of("h264", "yuv420p10le", 1280, 720)),
            "NVDEC of this GPU does not take h264 of 10 bits, 4:2:0");
  EXPECT_EQ(why(stream_of("av1", "yuv422p10le", 1280, 720)),
            "NVDEC of this GPU does not take av1 of 10 bits, 4:2:2");
  EXPECT_NE(why(stream_of("mpeg2video", "yuv420p", 1280, 720)).find("mpeg2video"),
            std::string::npos);
  EXPECT_NE(why(stream_of("h264", "gbrp", 1280, 720)).find("gbrp"), std::string::npos);
  EXPECT_NE(why(stream_of("h264", "yuv420p", 32, 32)).find("32x32"), std::string::npos);
  EXPECT_NE(why(stream_of("h264", "yuv420p", 4098, 16)).find("4098x16"), std::string::npos);
  media::StreamParameters extended = stream_of("h264", "yuv420p", 1280, 720);
  extended.profile = 88;
  EXPECT_NE(why(extended).find("Extended"), std::string::npos);
  EXPECT_NE(why(stream_of("h264", "", 1280, 720)), "");
}

}  // namespace
}  // namespace keiko::cuda
