// Pixels of real videos: the fast way beside the float64 reference, and both beside the ffmpeg
// command line.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

extern "C" {
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
}

#include "base/error.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/pixels_test_frames.h"

namespace keiko::media {
namespace {

constexpr const char* kNoMedia =
    "KEIKO_TEST_MEDIA is not set: pixels of real videos are NOT tested";

struct RealFrame {
  std::string path;
  StreamParameters stream;
  int64_t index = 0;
  FramePointer frame;
};

// One frame of the middle of every readable file.
const std::vector<RealFrame>& real_frames() {
  static const std::vector<RealFrame> frames = [] {
    std::vector<RealFrame> found;
    std::vector<std::string> paths;
    for (const char* folder : {"/real", "/edge"})
      for (const auto& entry : std::filesystem::directory_iterator(std::getenv("KEIKO_TEST_MEDIA") +
                                                                   std::string(folder)))
        paths.push_back(entry.path().string());
    std::sort(paths.begin(), paths.end());
    CpuClipDecoder decoder(default_env());
    for (const std::string& path : paths) try {
        const PacketTable table = scan_video(path);
        const int64_t index = std::min<int64_t>(table.frame_count() / 2, 120);
        decoder.decode_frames(table, path, {{index}}, [&](int64_t, const AVFrame& frame) {
          found.push_back({path, table.stream, index, FramePointer(av_frame_clone(&frame))});
        });
      } catch (const Error& error) {
        std::printf("not readable: %s\n", error.what());
      }
    return found;
  }();
  return frames;
}

std::vector<CropRect> crops_of(const StreamParameters& stream) {
  const double w = stream.display_width(), h = stream.display_height(), side = std::min(w, h);
  return {{(w - side) / 2, (h - side) / 2, side, side},    // centre square
          {0, 0, w, h},                                    // everything
          {0.213 * w, 0.117 * h, 0.4721 * w, 0.6113 * h},  // random-resized, inside
          {0.55 * w, 0.6 * h, 0.45 * w, 0.4 * h}};         // touching a corner
}

TEST(RealPixels, TheFastWayStaysNearTheReference) {
  if (std::getenv("KEIKO_TEST_MEDIA") == nullptr) GTEST_SKIP() << kNoMedia;
  Distance worst{0, 99, 0};
  int pictures = 0;
  FixedPointPixels converter;
  for (const RealFrame& real : real_frames()) {
    int trial = 0;
    for (const CropRect& crop : crops_of(real.stream))
      for (int size : {112, 224, 336}) {
        PixelGeometry g;
        g.stream = real.stream;
        g.crop = crop;
        g.out_width = g.out_height = size;
        g.filter = trial % 2 == 0 ? Filter::kBilinear : Filter::kBicubic;
        g.flip = trial % 3 == 1;
        ++trial;
        const Distance d = distance(convert_with(converter, *real.frame, g),
                                    convert_with(ReferencePixels(), *real.frame, g));
        EXPECT_LE(d.mean, 0.5) << real.path << " " << describe(g);
        EXPECT_GE(d.psnr, 48) << real.path << " " << describe(g);
        worst = {std::max(worst.mean, d.mean), std::min(worst.psnr, d.psnr),
                 std::max(worst.largest, d.largest)};
        ++pictures;
      }
  }
  EXPECT_GT(pictures, 400);
  std::printf(
      "%d pictures: largest mean error %.4f level, smallest PSNR %.1f dB, largest error %d\n",
      pictures, worst.mean, worst.psnr, worst.largest);
}

// The scaling filter of an ffmpeg command line, told all that the frame and stream say.
// swscale for bilinear. Its scale filter (FFmpeg 5.1) rounds the parameter of its bicubic filter to
// an integer, so that a = -0.5 cannot be had: bicubic is zscale's, that is zimg's.
std::string scaling(const AVFrame& frame, const PixelGeometry& g, int width, int height) {
  const int space =
      frame.colorspace != AVCOL_SPC_UNSPECIFIED ? int(frame.colorspace) : g.stream.color_space;
  const int range =
      frame.color_range != AVCOL_RANGE_UNSPECIFIED ? int(frame.color_range) : g.stream.color_range;
  const int site = frame.chroma_location != AVCHROMA_LOC_UNSPECIFIED ? int(frame.chroma_location)
                                                                     : g.stream.chroma_location;
  const bool bt709 = space == AVCOL_SPC_BT709, bt2020 = space == AVCOL_SPC_BT2020_NCL;
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  const bool full = range == AVCOL_RANGE_JPEG || frame.format == AV_PIX_FMT_YUVJ420P ||
                    (d->nb_components == 1 && range == AVCOL_RANGE_UNSPECIFIED);
  if (g.filter == Filter::kBicubic)
    return fmt::format(
        "zscale=w={}:h={}:filter=bicubic:param_a=0:param_b=0.5:matrixin={}:rangein={}:"
        "chromalin={}:matrix=gbr:range=full,format=gbrp",
        width, height,
        bt709    ? "709"
        : bt2020 ? "2020_ncl"
                 : "170m",
        full ? "full" : "limited",
        site == AVCHROMA_LOC_CENTER    ? "center"
        : site == AVCHROMA_LOC_TOPLEFT ? "topleft"
                                       : "left");
  // In 1/256 of a luma sample; -513: not subsampled. Untold, swscale takes chroma for centred.
  const int h_site = d->log2_chroma_w == 0 ? -513 : site == AVCHROMA_LOC_CENTER ? 128 : 0;
  const int v_site = d->log2_chroma_h == 0 ? -513 : site == AVCHROMA_LOC_TOPLEFT ? 0 : 128;
  return fmt::format(
      "scale={}:{}:flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
      ":in_color_matrix={}:in_range={}:in_h_chr_pos={}:in_v_chr_pos={}",
      width, height,
      bt709    ? "bt709"
      : bt2020 ? "bt2020"
               : "bt601",
      full ? "full" : "limited", h_site, v_site);
}

// The ffmpeg command line's planes of the crop (whole even coded pixels) of one frame.
std::vector<uint8_t> ffmpeg_pixels(const std::string& input, const std::string& select,
                                   const CropRect& crop, const std::string& scale, int width,
                                   int height, const std::string& turn) {
  const std::string command = fmt::format(
      "ffmpeg -v error -noautorotate {} -vf \"{}crop={}:{}:{}:{},{},format=rgb24{}\" -frames:v 1 "
      "-f rawvideo - 2>/dev/null",
      input, select, crop.width, crop.height, crop.x, crop.y, scale, turn);
  const size_t plane = size_t(width) * size_t(height);
  std::vector<uint8_t> packed(3 * plane), planes(3 * plane);
  FILE* pipe = ::popen(command.c_str(), "r");
  const size_t got = std::fread(packed.data(), 1, packed.size(), pipe);
  ::pclose(pipe);
  EXPECT_EQ(got, packed.size()) << command;
  for (size_t i = 0; i < plane; ++i)
    for (size_t c = 0; c < 3; ++c) planes[c * plane + i] = packed[3 * i + c];
  return planes;
}

bool ffmpeg_has_zscale() {
  return std::system("ffmpeg -v error -h filter=zscale 2>&1 | grep -q param_a") == 0;
}
constexpr const char* kNoZscale =
    "this ffmpeg has no zscale filter: bicubic is NOT compared with the command line";

// Without the pixels whose taps reach outside of the crop: there swscale repeats the crop's border,
// while by definition the picture goes on, and at its own border weights are shared out anew.
std::vector<uint8_t> interior(const std::vector<uint8_t>& planes, const PixelGeometry& g) {
  const double scale =
      std::min(g.crop.width / g.out_width, g.crop.height / g.out_height);  // input per output
  const double radius = g.filter == Filter::kBilinear ? 1 : 2;
  const int margin = int(std::ceil(radius * std::max(1.0, 2 / scale)));  // 2: subsampled chroma
  std::vector<uint8_t> inside;
  for (int c = 0; c < 3; ++c)
    for (int y = margin; y < g.out_height - margin; ++y)
      for (int x = margin; x < g.out_width - margin; ++x)
        inside.push_back(
            planes[(size_t(c) * size_t(g.out_height) + size_t(y)) * size_t(g.out_width) +
                   size_t(x)]);
  return inside;
}

TEST(RealPixels, BothWaysAgreeWithTheFfmpegCommandLine) {
  if (std::getenv("KEIKO_TEST_MEDIA") == nullptr) GTEST_SKIP() << kNoMedia;
  if (!ffmpeg_has_zscale()) GTEST_SKIP() << kNoZscale;
  std::map<Filter, double> worst = {{Filter::kBilinear, 99}, {Filter::kBicubic, 99}};
  std::map<Filter, double> worst_with_borders = worst;
  std::map<Filter, std::string> worst_path;
  for (const RealFrame& real : real_frames()) {
    int trial = 0;
    for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
      // A crop in coded pixels; the stream's rotation and shape of pixels are taken out of it.
      const int w = real.frame->width, h = real.frame->height;
      CropRect crop = {double(w / 8 & ~1), double(h / 6 & ~1), double(w * 3 / 4 & ~1),
                       double(h * 4 / 5 & ~1)};
      if (filter == Filter::kBicubic) crop = {0, 0, double(w & ~1), double(h & ~1)};
      const int size = trial++ == 0 ? 224 : 112;
      PixelGeometry g;
      g.stream = real.stream;
      g.stream.sample_aspect_num = g.stream.sample_aspect_den = 1;
      g.filter = filter;
      g.out_width = g.out_height = size;
      const double sw = g.stream.width, sh = g.stream.height;
      std::string turn;
      switch (g.stream.rotation) {
        case 90:
          turn = ",transpose=clock";
          g.crop = {sh - crop.y - crop.height, crop.x, crop.height, crop.width};
          break;
        case 180:
          turn = ",hflip,vflip";
          g.crop = {sw - crop.x - crop.width, sh - crop.y - crop.height, crop.width, crop.height};
          break;
        case 270:
          turn = ",transpose=cclock";
          g.crop = {crop.y, sw - crop.x - crop.width, crop.height, crop.width};
          break;
        default:
          g.crop = crop;
      }
      const auto truth =
          ffmpeg_pixels(fmt::format("-i '{}' -map 0:{}", real.path, real.stream.stream_index),
                        fmt::format("select='eq(n,{})',", real.index), crop,
                        scaling(*real.frame, g, size, size), size, size, turn);
      SCOPED_TRACE(real.path + " " + describe(g));
      const auto reference = convert_with(ReferencePixels(), *real.frame, g);
      const auto fast = convert_with(FixedPointPixels(), *real.frame, g);
      const double psnr = distance(interior(fast, g), interior(truth, g)).psnr;
      EXPECT_GE(distance(interior(reference, g), interior(truth, g)).psnr, 45);
      EXPECT_GE(psnr, 45);
      if (psnr < worst[filter]) worst_path[filter] = real.path;
      worst[filter] = std::min(worst[filter], psnr);
      worst_with_borders[filter] = std::min(worst_with_borders[filter], distance(fast, truth).psnr);
    }
  }
  for (auto [filter, psnr] : worst)
    std::printf("%zu frames, %s: smallest PSNR %.1f dB, with the borders %.1f dB (%s)\n",
                real_frames().size(), filter == Filter::kBilinear ? "bilinear" : "bicubic", psnr,
                worst_with_borders[filter], worst_path[filter].c_str());
}

// A real picture as the format, range, matrix and siting of a case, then both ways beside the
// reference and the ffmpeg command line.
TEST(RealPixels, EveryLayoutDepthRangeMatrixAndSitingAgreesToo) {
  if (std::getenv("KEIKO_TEST_MEDIA") == nullptr) GTEST_SKIP() << kNoMedia;
  if (!ffmpeg_has_zscale()) GTEST_SKIP() << kNoZscale;
  const TempFolder folder;
  const AVFrame* source = nullptr;
  for (const RealFrame& real : real_frames())
    if (real.path.ends_with("real/bigbuckbunny.mp4")) source = real.frame.get();
  ASSERT_NE(source, nullptr);
  constexpr AVPixelFormat kFormats[] = {
      AV_PIX_FMT_YUV420P,     AV_PIX_FMT_YUV422P,     AV_PIX_FMT_YUV444P,     AV_PIX_FMT_GRAY8,
      AV_PIX_FMT_YUV420P10LE, AV_PIX_FMT_YUV422P10LE, AV_PIX_FMT_YUV444P10LE, AV_PIX_FMT_GRAY10LE};
  constexpr AVColorSpace kSpaces[] = {AVCOL_SPC_SMPTE170M, AVCOL_SPC_BT709, AVCOL_SPC_BT2020_NCL};
  constexpr AVChromaLocation kSites[] = {AVCHROMA_LOC_LEFT, AVCHROMA_LOC_CENTER,
                                         AVCHROMA_LOC_TOPLEFT};
  int trial = 0;
  for (AVPixelFormat format : kFormats)
    for (AVColorSpace space : kSpaces)
      for (AVColorRange range : {AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG}) {
        const bool gray = format == AV_PIX_FMT_GRAY8 || format == AV_PIX_FMT_GRAY10LE;
        // ffmpeg takes grey for full range.
        if (gray && range == AVCOL_RANGE_MPEG) continue;
        FramePointer frame(av_frame_alloc());
        frame->format = format;
        frame->width = 640;
        frame->height = 360;
        av_frame_get_buffer(frame.get(), 0);
        SwsContext* sws =
            sws_getContext(source->width, source->height, AVPixelFormat(source->format), 640, 360,
                           format, SWS_BICUBIC, nullptr, nullptr, nullptr);
        sws_scale(sws, source->data, source->linesize, 0, source->height, frame->data,
                  frame->linesize);
        sws_freeContext(sws);
        frame->colorspace = space;
        frame->color_range = range;
        frame->chroma_location = kSites[trial % 3];
        PixelGeometry g = whole_picture(*frame, 200, 168);
        g.crop = {80, 24, 480, 320};
        g.filter = trial % 2 == 0 ? Filter::kBilinear : Filter::kBicubic;
        ++trial;
        SCOPED_TRACE(fmt::format("{} space {} range {} siting {} {}", av_get_pix_fmt_name(format),
                                 int(space), int(range), int(frame->chroma_location), describe(g)));
        const auto reference = convert_with(ReferencePixels(), *frame, g);
        const auto fast = convert_with(FixedPointPixels(), *frame, g);
        EXPECT_LE(distance(fast, reference).mean, 0.5);
        EXPECT_GE(distance(fast, reference).psnr, 48);

        std::vector<uint8_t> raw(size_t(av_image_get_buffer_size(format, 640, 360, 1)));
        av_image_copy_to_buffer(raw.data(), int(raw.size()), frame->data, frame->linesize, format,
                                640, 360, 1);
        const std::string path = folder.path() + "/frame.raw";
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(raw.data()), std::streamsize(raw.size()));
        const auto truth =
            ffmpeg_pixels(fmt::format("-f rawvideo -pixel_format {} -video_size 640x360 -i '{}'",
                                      av_get_pix_fmt_name(format), path),
                          "", g.crop, scaling(*frame, g, 200, 168), 200, 168, "");
        EXPECT_GE(distance(interior(reference, g), interior(truth, g)).psnr, 45);
        EXPECT_GE(distance(interior(fast, g), interior(truth, g)).psnr, 45);
      }
}

}  // namespace
}  // namespace keiko::media
