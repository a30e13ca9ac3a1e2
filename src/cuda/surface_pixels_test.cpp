// The arithmetic of the pixel kernel, on the CPU, beside the float64 reference of src/media.

#include "cuda/surface_pixels.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "cuda/surface_frames_for_tests.h"
#include "media/clip_decoder.h"

namespace keiko::cuda {
namespace {

using media::CropRect;
using media::Filter;
using media::FramePointer;
using media::PixelGeometry;
using media::ReferencePixels;

// Values over all comparisons, and how many of them differ, and by how much at most.
struct Tally {
  int64_t values = 0, differing = 0;
  int largest = 0;

  void add(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
    ASSERT_EQ(a.size(), b.size());
    values += int64_t(a.size());
    for (size_t i = 0; i < a.size(); ++i) {
      const int d = std::abs(int(a[i]) - int(b[i]));
      differing += d != 0;
      largest = std::max(largest, d);
    }
  }
  void expect_near() const {
    EXPECT_LE(largest, 1);
    EXPECT_LE(double(differing), 0.001 * double(values));
    std::printf("%lld values: %lld differ, by %d at most\n", static_cast<long long>(values),
                static_cast<long long>(differing), largest);
  }
};

constexpr AVPixelFormat kPlanar[] = {
    AV_PIX_FMT_YUV420P,     AV_PIX_FMT_YUV420P10LE, AV_PIX_FMT_YUV420P12LE,
    AV_PIX_FMT_YUV420P16LE, AV_PIX_FMT_YUV444P,     AV_PIX_FMT_YUV444P10LE,
    AV_PIX_FMT_YUV444P12LE, AV_PIX_FMT_YUV444P16LE, AV_PIX_FMT_YUVJ420P};

FramePointer random_frame(std::mt19937& random, AVPixelFormat format, int width, int height) {
  FramePointer frame = media::make_frame(format, width, height);
  media::fill_noise(*frame, unsigned(random()));
  constexpr AVColorSpace kSpaces[] = {AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_BT709, AVCOL_SPC_SMPTE170M,
                                      AVCOL_SPC_BT2020_NCL};
  frame->colorspace = kSpaces[random() % std::size(kSpaces)];
  frame->color_range = AVColorRange(random() % 3);
  frame->chroma_location = AVChromaLocation(random() % 7);
  return frame;
}

// Geometries as augmentation makes them, and some that it should not.
PixelGeometry random_geometry(const AVFrame& frame, std::mt19937& random) {
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * (random() % 100000) / 100000.0;
  };
  PixelGeometry g = media::whole_picture(frame, 1 + int(random() % 90), 1 + int(random() % 90),
                                         int(random() % 4) * 90);
  if (random() % 3 == 0) g.stream.sample_aspect_num = 4, g.stream.sample_aspect_den = 3;
  if (random() % 8 == 0) g.stream.width += 37;  // the stream said another size
  const double w = g.stream.display_width(), h = g.stream.display_height();
  g.crop = {uniform(-0.1, 0.5) * w, uniform(-0.1, 0.5) * h, uniform(0.05, 0.6) * w,
            uniform(0.05, 0.6) * h};
  g.flip = random() % 2 == 0;
  g.filter = random() % 2 == 0 ? Filter::kBilinear : Filter::kBicubic;
  // What the samples mean comes from the stream: 12 bits lie in words of 16.
  g.stream.pixel_format = av_get_pix_fmt_name(AVPixelFormat(frame.format));
  return g;
}

TEST(SurfacePixels, NoiseIsAtMostOneLevelFromTheDefinitionAndNearlyEverywhereEqual) {
  std::mt19937 random(1);
  SurfacePixelsReference converter;
  Tally tally;
  for (int trial = 0; trial < 1200; ++trial) {
    const AVPixelFormat format = kPlanar[size_t(trial) % std::size(kPlanar)];
    const FramePointer frame =
        random_frame(random, format, 1 + int(random() % 150), 1 + int(random() % 150));
    const FramePointer surface = to_surface(*frame, surface_format(format));
    const PixelGeometry g = random_geometry(*frame, random);
    Tally one;
    one.add(media::convert_with(converter, *surface, g),
            media::convert_with(ReferencePixels(), *frame, g));
    EXPECT_LE(one.largest, 1) << "trial " << trial << ": " << av_get_pix_fmt_name(format) << " "
                              << frame->width << "x" << frame->height << " " << describe(g);
    tally.values += one.values;
    tally.differing += one.differing;
    tally.largest = std::max(tally.largest, one.largest);
  }
  tally.expect_near();
}

TEST(SurfacePixels, LargeAndTinyPicturesAreAsDefined) {
  std::mt19937 random(2);
  Tally tally;
  const struct {
    int width, height, out_width, out_height;
  } cases[] = {{3840, 2160, 224, 224}, {1920, 1080, 224, 224}, {4096, 64, 8, 8},
               {64, 2304, 16, 4},      {2, 2, 224, 224},       {1, 1, 7, 5},
               {321, 241, 1000, 40},   {177, 144, 177, 144}};
  for (const auto& c : cases)
    for (AVPixelFormat format : {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV420P10LE})
      for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
        const FramePointer frame = random_frame(random, format, c.width, c.height);
        PixelGeometry g = media::whole_picture(*frame, c.out_width, c.out_height);
        g.filter = filter;
        tally.add(media::convert_with(SurfacePixelsReference(),
                                      *to_surface(*frame, surface_format(format)), g),
                  media::convert_with(ReferencePixels(), *frame, g));
      }
  tally.expect_near();
}

TEST(SurfacePixels, AFlatGreyPictureKeepsItsLevelExactly) {
  for (int level = 0; level < 256; ++level) {
    FramePointer frame = media::make_frame(AV_PIX_FMT_YUV420P, 61, 47);
    media::for_each_sample(*frame, [&](int p, int, int) { return p == 0 ? level : 128; });
    frame->color_range = AVCOL_RANGE_JPEG;
    PixelGeometry g = media::whole_picture(*frame, 23, 33);
    for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
      g.filter = filter;
      const auto out =
          media::convert_with(SurfacePixelsReference(), *to_surface(*frame, AV_PIX_FMT_NV12), g);
      EXPECT_EQ(std::count(out.begin(), out.end(), uint8_t(level)), int64_t(out.size()))
          << "level " << level;
    }
  }
}

// Bits below a value of 10 are nobody's: P010 does not promise that they are zero.
TEST(SurfacePixels, BitsBelowAValueDoNotCount) {
  std::mt19937 random(3);
  const FramePointer frame = random_frame(random, AV_PIX_FMT_YUV420P10LE, 64, 48);
  const FramePointer clean = to_surface(*frame, AV_PIX_FMT_P010LE);
  const FramePointer dirty = to_surface(*frame, AV_PIX_FMT_P010LE);
  for (int plane : {0, 1})
    for (int i = 0; i < dirty->linesize[plane] * (plane == 0 ? 48 : 24); i += 2)
      dirty->data[plane][i] |= uint8_t(random() % 64);
  const PixelGeometry g = media::whole_picture(*frame, 30, 30);
  EXPECT_EQ(media::convert_with(SurfacePixelsReference(), *dirty, g),
            media::convert_with(SurfacePixelsReference(), *clean, g));
}

// NVDEC has no grey surfaces: what such a stream's chroma planes hold must not colour it.
TEST(SurfacePixels, SurfacesOfGreyStreamsStayGrey) {
  std::mt19937 random(4);
  const FramePointer frame = random_frame(random, AV_PIX_FMT_YUV420P, 64, 48);
  FramePointer gray(av_frame_clone(frame.get()));
  gray->format = AV_PIX_FMT_GRAY8;
  PixelGeometry g = media::whole_picture(*frame, 30, 30);
  g.stream.pixel_format = "gray";
  Tally tally;
  tally.add(media::convert_with(SurfacePixelsReference(), *to_surface(*frame, AV_PIX_FMT_NV12), g),
            media::convert_with(ReferencePixels(), *gray, g));
  tally.expect_near();
}

TEST(SurfacePixels, OneConverterGivesWhatFreshOnesGive) {
  std::mt19937 random(5);
  SurfacePixelsReference kept;
  for (int trial = 0; trial < 60; ++trial) {
    const AVPixelFormat format = kPlanar[size_t(trial) % std::size(kPlanar)];
    const FramePointer frame =
        random_frame(random, format, 8 + int(random() % 99), 8 + int(random() % 99));
    const FramePointer surface = to_surface(*frame, surface_format(format));
    PixelGeometry g = random_geometry(*frame, random);
    const auto truth = media::convert_with(SurfacePixelsReference(), *surface, g);
    EXPECT_EQ(media::convert_with(kept, *surface, g), truth);
    EXPECT_EQ(media::convert_with(kept, *surface, g), truth);  // from its tables
    surface->chroma_location = AVCHROMA_LOC_TOPLEFT;
    g.flip = !g.flip;
    EXPECT_EQ(media::convert_with(kept, *surface, g),
              media::convert_with(SurfacePixelsReference(), *surface, g));
  }
}

TEST(SurfacePixels, WhatTheKernelStagesCoversEveryColumnItReads) {
  std::mt19937 random(6);
  for (int trial = 0; trial < 300; ++trial) {
    const FramePointer frame =
        random_frame(random, AV_PIX_FMT_YUV420P, 1 + int(random() % 500), 1 + int(random() % 50));
    const FramePointer surface = to_surface(*frame, AV_PIX_FMT_NV12);
    const PixelGeometry g = random_geometry(*frame, random);
    SurfacePlan plan;
    ASSERT_TRUE(plan.prepare(*surface, g));
    ASSERT_FALSE(plan.prepare(*surface, g));
    std::vector<uint8_t> out(size_t(3 * g.out_width * g.out_height));
    const SurfaceTask task =
        plan.task(*surface, plan.tables().data(), out.data(), out.data(), out.data(), g.out_width);
    for (const auto& [axis, input] :
         {std::pair{task.luma_x, frame->width}, std::pair{task.chroma_x, (frame->width + 1) / 2}})
      for (int x = 0; x < task.width; ++x) {
        const int tile = x / 32 * 32;
        EXPECT_GE(axis.first[x], axis.first[tile]) << "column " << x << " " << describe(g);
        EXPECT_LE(axis.first[x] + axis.taps - axis.first[tile], plan.columns_read(32));
        EXPECT_LE(axis.first[x] + axis.taps, input);
        EXPECT_GE(axis.first[x], 0);
      }
  }
}

TEST(SurfacePixels, OtherFormatsAreRefusedByName) {
  const FramePointer frame = media::make_frame(AV_PIX_FMT_GBRP, 16, 16);
  media::fill_noise(*frame, 1);
  const PixelGeometry g = media::whole_picture(*frame, 8, 8);
  try {
    media::convert_with(SurfacePixelsReference(), *frame, g);
    FAIL() << "an RGB frame was converted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    EXPECT_NE(std::string(error.what()).find("gbrp"), std::string::npos) << error.what();
  }
}

TEST(SurfacePixels, SurfacesOfRealVideosAreAsDefined) {
  const char* media_folder = std::getenv("KEIKO_TEST_MEDIA");
  if (media_folder == nullptr)
    GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: surfaces of real videos are NOT tested";
  std::vector<std::string> paths;
  for (const char* folder : {"/real", "/edge"})
    for (const auto& entry :
         std::filesystem::directory_iterator(media_folder + std::string(folder)))
      paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());
  media::CpuClipDecoder decoder(default_env());
  SurfacePixelsReference converter;
  Tally all;
  int pictures = 0, trial = 0;
  for (const std::string& path : paths) try {
      const media::PacketTable table = media::scan_video(path);
      const int64_t index = std::min<int64_t>(table.frame_count() / 2, 120);
      decoder.decode_frames(table, path, {{index}}, [&](int64_t, const AVFrame& frame) {
        const AVPixelFormat format = surface_format(frame.format);
        if (format == AV_PIX_FMT_NONE) return;
        const FramePointer surface = to_surface(frame, format);
        const double w = table.stream.display_width(), h = table.stream.display_height();
        const double side = std::min(w, h);
        for (const CropRect& crop :
             {CropRect{(w - side) / 2, (h - side) / 2, side, side}, CropRect{0, 0, w, h},
              CropRect{0.213 * w, 0.117 * h, 0.4721 * w, 0.6113 * h},
              CropRect{0.55 * w, 0.6 * h, 0.45 * w, 0.4 * h}})
          for (int size : {112, 224}) {
            PixelGeometry g;
            g.stream = table.stream;
            g.crop = crop;
            g.out_width = g.out_height = size;
            g.filter = trial % 2 == 0 ? Filter::kBilinear : Filter::kBicubic;
            g.flip = trial % 3 == 1;
            g.stream.rotation = trial % 5 == 0 ? 90 : table.stream.rotation;
            ++trial;
            Tally one;
            one.add(media::convert_with(converter, *surface, g),
                    media::convert_with(ReferencePixels(), frame, g));
            EXPECT_LE(one.largest, 1) << path << " frame " << index << " " << describe(g);
            all.values += one.values;
            all.differing += one.differing;
            all.largest = std::max(all.largest, one.largest);
            ++pictures;
          }
      });
    } catch (const Error& error) {
      std::printf("not readable: %s\n", error.what());
    }
  EXPECT_GT(pictures, 250);
  all.expect_near();
}

}  // namespace
}  // namespace keiko::cuda
