#include "media/pixels.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "media/pixels_kernels.h"
#include "media/pixels_test_frames.h"

namespace keiko::media {
namespace {

// A picture with one bright quarter at the top left.
FramePointer corner_frame(int width, int height) {
  FramePointer frame = make_frame(AV_PIX_FMT_GRAY8, width, height);
  for_each_sample(*frame,
                  [&](int, int x, int y) { return x < width / 2 && y < height / 2 ? 200 : 10; });
  return frame;
}

// By every way there is.
template <class Check>
void for_each_way(const AVFrame& frame, const PixelGeometry& g, Check check) {
  {
    SCOPED_TRACE("reference");
    check(convert_with(ReferencePixels(), frame, g));
  }
  for (InstructionSet set : instruction_sets()) {
    SCOPED_TRACE(fmt::format("instruction set {}", int(set)));
    check(convert_with(FixedPointPixels(set), frame, g));
  }
}

TEST(Pixels, RotationTurnsTheBrightCornerClockwise) {
  const FramePointer frame = corner_frame(64, 32);
  struct {
    int rotation;
    bool flip;
    int corner;  // 0 top left, 1 top right, 2 bottom right, 3 bottom left
  } const cases[] = {{0, false, 0}, {90, false, 1}, {180, false, 2}, {270, false, 3},
                     {0, true, 1},  {90, true, 0},  {180, true, 3},  {270, true, 2}};
  for (const auto& c : cases) {
    PixelGeometry g = whole_picture(*frame, 16, 12, c.rotation);
    g.flip = c.flip;
    for_each_way(*frame, g, [&](const std::vector<uint8_t>& out) {
      const uint8_t corners[] = {out[2 * 16 + 2], out[2 * 16 + 13], out[9 * 16 + 13],
                                 out[9 * 16 + 2]};
      for (int i = 0; i < 4; ++i)
        EXPECT_EQ(corners[i], i == c.corner ? 200 : 10)
            << "rotation " << c.rotation << " flip " << c.flip << " corner " << i;
    });
  }
}

TEST(Pixels, KnownColoursComeOutRight) {
  // Code values of pure red by ITU-R BT.601, BT.709 and BT.2020.
  struct {
    AVPixelFormat format;
    int space, range, y, u, v;
  } const cases[] = {
      {AV_PIX_FMT_YUV420P, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 63, 102, 240},
      {AV_PIX_FMT_YUV444P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_JPEG, 76, 85, 255},
      {AV_PIX_FMT_YUV422P, AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_MPEG, 81, 90, 240},
      {AV_PIX_FMT_YUV420P10LE, AVCOL_SPC_BT2020_NCL, AVCOL_RANGE_MPEG, 294, 387, 960},
      {AV_PIX_FMT_YUV444P12LE, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 1001, 1637, 3840}};
  for (const auto& c : cases) {
    FramePointer frame = make_frame(c.format, 36, 36);
    for_each_sample(*frame, [&](int p, int, int) { return p == 0 ? c.y : p == 1 ? c.u : c.v; });
    frame->colorspace = AVColorSpace(c.space);
    frame->color_range = AVColorRange(c.range);
    SCOPED_TRACE(fmt::format("format {} space {}", int(c.format), c.space));
    for_each_way(*frame, whole_picture(*frame, 20, 20), [](const std::vector<uint8_t>& out) {
      EXPECT_NEAR(out[0], 255, 2);
      EXPECT_NEAR(out[400], 0, 2);
      EXPECT_NEAR(out[800], 0, 2);
    });
  }
}

TEST(Pixels, AFlatGrayPictureKeepsItsLevelExactly) {
  for (int level = 0; level < 256; ++level) {
    FramePointer frame = make_frame(AV_PIX_FMT_YUV420P, 61, 47);
    for_each_sample(*frame, [&](int p, int, int) { return p == 0 ? level : 128; });
    frame->color_range = AVCOL_RANGE_JPEG;
    PixelGeometry g = whole_picture(*frame, 23, 33);
    for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
      g.filter = filter;
      for_each_way(*frame, g, [&](const std::vector<uint8_t>& out) {
        EXPECT_EQ(std::count(out.begin(), out.end(), uint8_t(level)), int64_t(out.size()))
            << "level " << level;
      });
    }
  }
}

TEST(Pixels, RgbPicturesKeepTheirColours) {
  FramePointer frame = make_frame(AV_PIX_FMT_GBRP, 40, 30);
  for_each_sample(*frame, [](int p, int, int) { return p == 0 ? 20 : p == 1 ? 30 : 10; });
  FramePointer packed(av_frame_alloc());
  packed->format = AV_PIX_FMT_RGB24;
  packed->width = 40;
  packed->height = 30;
  av_frame_get_buffer(packed.get(), 0);
  for (int y = 0; y < 30; ++y)
    for (int x = 0; x < 40; ++x)
      for (int c = 0; c < 3; ++c)
        packed->data[0][y * packed->linesize[0] + 3 * x + c] = uint8_t(10 * (c + 1));
  for (const AVFrame* source : {frame.get(), packed.get()})
    for_each_way(*source, whole_picture(*source, 8, 8), [](const std::vector<uint8_t>& out) {
      for (int c = 0; c < 3; ++c) EXPECT_EQ(out[size_t(64 * c + 9)], 10 * (c + 1));
    });
}

TEST(Pixels, ResamplingWeightsSumToOneAndKeepAStraightLine) {
  for (double start : {0.0, 3.25, 10.0})
    for (double length : {7.5, 32.0, 50.0})
      for (int output : {1, 8, 32, 224})
        for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
          const auto r = make_resampling(start, length, 64, output, filter);
          for (int i = 0; i < output; ++i) {
            double sum = 0, centre = 0;
            for (int k = 0; k < r.taps; ++k) {
              sum += r.weights[size_t(i) * r.taps + k];
              centre += r.weights[size_t(i) * r.taps + k] * (r.first[i] + k + 0.5);
            }
            EXPECT_NEAR(sum, 1, 1e-12);
            const double want = start + (i + 0.5) * length / output;
            const double reach = 2 * std::max(1.0, length / output);
            if (want > reach && want < 64 - reach) {
              EXPECT_NEAR(centre, want, 0.03 * reach);
            }
          }
        }
}

TEST(Pixels, ACropOutsideThePictureTakesTheBorder) {
  FramePointer frame = make_frame(AV_PIX_FMT_YUV420P, 64, 48);
  for_each_sample(*frame, [](int p, int x, int) { return p > 0 ? 128 : x < 32 ? 50 : 200; });
  frame->color_range = AVCOL_RANGE_JPEG;
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic})
    for (const CropRect& crop :
         {CropRect{-500, -500, 300, 300}, CropRect{-20, 5, 30, 30}, CropRect{-3, -3, 1, 1}}) {
      PixelGeometry g = whole_picture(*frame, 19, 17);
      g.crop = crop;
      g.filter = filter;
      SCOPED_TRACE(describe(g));
      for_each_way(*frame, g, [&](const std::vector<uint8_t>& out) {
        EXPECT_EQ(out[0], 50);
        EXPECT_EQ(out[8 * 19], 50);
      });
    }
}

// Geometries as augmentation makes them, and some that it should not.
PixelGeometry random_geometry(const AVFrame& frame, std::mt19937& random) {
  auto uniform = [&](double low, double high) {
    return low + (high - low) * (random() % 100000) / 100000.0;
  };
  PixelGeometry g =
      whole_picture(frame, 1 + int(random() % 90), 1 + int(random() % 90), int(random() % 4) * 90);
  if (random() % 3 == 0) g.stream.sample_aspect_num = 4, g.stream.sample_aspect_den = 3;
  if (random() % 8 == 0) g.stream.width += 37;  // the stream said another size
  const double w = g.stream.display_width(), h = g.stream.display_height();
  g.crop = {uniform(-0.1, 0.5) * w, uniform(-0.1, 0.5) * h, uniform(0.05, 0.6) * w,
            uniform(0.05, 0.6) * h};
  g.flip = random() % 2 == 0;
  g.filter = random() % 2 == 0 ? Filter::kBilinear : Filter::kBicubic;
  return g;
}

constexpr AVPixelFormat kFormats[] = {
    AV_PIX_FMT_YUV420P,     AV_PIX_FMT_YUV422P,     AV_PIX_FMT_YUV444P,     AV_PIX_FMT_YUV411P,
    AV_PIX_FMT_YUV410P,     AV_PIX_FMT_YUV440P,     AV_PIX_FMT_YUVJ420P,    AV_PIX_FMT_GRAY8,
    AV_PIX_FMT_YUV420P9LE,  AV_PIX_FMT_YUV420P10LE, AV_PIX_FMT_YUV422P10LE, AV_PIX_FMT_YUV444P10LE,
    AV_PIX_FMT_YUV420P12LE, AV_PIX_FMT_YUV422P14LE, AV_PIX_FMT_YUV444P16LE, AV_PIX_FMT_GRAY10LE,
    AV_PIX_FMT_GRAY16LE,    AV_PIX_FMT_YUVA420P,    AV_PIX_FMT_GBRP,        AV_PIX_FMT_GBRP10LE};

FramePointer random_frame(std::mt19937& random, int width, int height, int shift) {
  FramePointer frame = make_frame(kFormats[random() % std::size(kFormats)], width, height, shift);
  fill_noise(*frame, random());
  constexpr AVColorSpace kSpaces[] = {AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_BT709,
                                      AVCOL_SPC_FCC,         AVCOL_SPC_SMPTE170M,
                                      AVCOL_SPC_SMPTE240M,   AVCOL_SPC_BT2020_NCL};
  frame->colorspace = kSpaces[random() % std::size(kSpaces)];
  frame->color_range = AVColorRange(random() % 3);
  frame->chroma_location = AVChromaLocation(random() % 7);
  return frame;
}

TEST(Pixels, TheFastWayStaysNearTheReferenceOnNoise) {
  std::mt19937 random(1);
  FixedPointPixels converter;
  for (int trial = 0; trial < 1000; ++trial) {
    const FramePointer frame =
        random_frame(random, 1 + int(random() % 150), 1 + int(random() % 150), 0);
    const PixelGeometry g = random_geometry(*frame, random);
    SCOPED_TRACE(fmt::format("trial {}: {} {}x{} {}", trial,
                             av_get_pix_fmt_name(AVPixelFormat(frame->format)), frame->width,
                             frame->height, describe(g)));
    const Distance d =
        distance(convert_with(converter, *frame, g), convert_with(ReferencePixels(), *frame, g));
    EXPECT_LE(d.largest, 1);
    EXPECT_LE(d.mean, 0.1);
  }
}

TEST(Pixels, EveryInstructionSetAndAlignmentGivesTheSameBits) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 500; ++trial) {
    const int width = 1 + int(random() % 200), height = 1 + int(random() % 200);
    const unsigned seed = random();
    std::mt19937 here(seed), there(seed);
    const FramePointer frame = random_frame(here, width, height, 0);
    const FramePointer shifted = random_frame(there, width, height, 2 * int(random() % 9));
    const PixelGeometry g = random_geometry(*frame, random);
    SCOPED_TRACE(fmt::format("trial {}: {} {}x{} {}", trial,
                             av_get_pix_fmt_name(AVPixelFormat(frame->format)), width, height,
                             describe(g)));
    const auto truth = convert_with(FixedPointPixels(InstructionSet::kPlain), *frame, g);
    for (InstructionSet set : instruction_sets()) {
      FixedPointPixels converter(set);
      ASSERT_EQ(convert_with(converter, *frame, g), truth) << "instruction set " << int(set);
      ASSERT_EQ(convert_with(converter, *shifted, g), truth) << "instruction set " << int(set);
    }
  }
}

// Whatever the samples and weights, also those that no picture and no filter can have.
TEST(Pixels, EveryKernelEqualsThePlainOneOnAnyInput) {
  constexpr int kColumns = 96;
  std::mt19937 random(4);
  std::vector<int16_t> y(kColumns * kBand), u(y.size()), v(y.size());
  for (auto* plane : {&y, &u, &v})
    for (int16_t& x : *plane) x = int16_t(random() % 9 == 0 ? -32768 : int(random() % 65536));
  const PixelKernels* all[] = {kSse2Kernels, kAvx2Kernels, kAvx512Kernels};
  for (InstructionSet set : instruction_sets()) {
    if (set == InstructionSet::kPlain) continue;
    const PixelKernels& kernels = *all[int(set) - 1];
    auto expect_equal = [&](const char* name, auto call) {
      std::vector<uint8_t> truth(6 * y.size()), out(truth.size());
      call(kPlainKernels, truth.data());
      call(kernels, out.data());
      EXPECT_EQ(out, truth) << name << ", instruction set " << int(set);
    };
    auto words = [](uint8_t* bytes) { return reinterpret_cast<int16_t*>(bytes); };
    for (int taps = 1; taps < 10; ++taps) {
      std::vector<int16_t> weights(size_t(20 * taps));
      for (int16_t& w : weights) w = int16_t(random());
      std::vector<int> first;
      for (int i = 0; i < 20; ++i) first.push_back(int(random() % unsigned(kColumns - taps)));
      const int16_t* rows[10];
      for (int k = 0; k < taps; ++k) rows[k] = y.data() + k * kColumns;
      for (int doubling : {0, 1}) {
        expect_equal("blend_rows", [&](const PixelKernels& k, uint8_t* out) {
          k.blend_rows(rows, weights.data(), taps, doubling, words(out), kColumns);
        });
        expect_equal("blend_columns", [&](const PixelKernels& k, uint8_t* out) {
          k.blend_columns(y.data(), first.data(), weights.data(), taps, doubling, 20, kBand,
                          words(out));
        });
      }
    }
    expect_equal("turn_band", [&](const PixelKernels& k, uint8_t* out) {
      k.turn_band(y.data(), kColumns, kColumns, words(out));
    });
    for (int trial = 0; trial < 20; ++trial) {
      const FixedColour c{int16_t(random()), int16_t(random()), int16_t(random()),
                          int16_t(random()), int16_t(random()), int16_t(random())};
      expect_equal("colour", [&](const PixelKernels& k, uint8_t* out) {
        k.colour(y.data(), u.data(), v.data(), c, kColumns, out, out + y.size(),
                 out + 2 * y.size());
      });
      expect_equal(
          "gray", [&](const PixelKernels& k, uint8_t* out) { k.gray(y.data(), c, kColumns, out); });
    }
    const auto* samples = reinterpret_cast<const uint16_t*>(y.data());
    for (int n : {1, 15, 33, 96})
      expect_equal("widen", [&](const PixelKernels& k, uint8_t* out) {
        k.widen_words(samples, n % 7, n % 2, words(out), n);
        k.widen_bytes(reinterpret_cast<const uint8_t*>(samples), words(out) + kColumns, n);
      });
  }
}

TEST(Pixels, OneConverterGivesWhatFreshOnesGive) {
  std::mt19937 random(3);
  FixedPointPixels kept;
  for (int trial = 0; trial < 40; ++trial) {
    const FramePointer frame =
        random_frame(random, 8 + int(random() % 99), 8 + int(random() % 99), 0);
    const PixelGeometry g = random_geometry(*frame, random);
    const auto truth = convert_with(FixedPointPixels(), *frame, g);
    EXPECT_EQ(convert_with(kept, *frame, g), truth);
    // The same again, from its tables; then colours alone change.
    EXPECT_EQ(convert_with(kept, *frame, g), truth);
    frame->color_range =
        frame->color_range == AVCOL_RANGE_JPEG ? AVCOL_RANGE_MPEG : AVCOL_RANGE_JPEG;
    frame->chroma_location = AVCHROMA_LOC_TOPLEFT;
    EXPECT_EQ(convert_with(kept, *frame, g), convert_with(FixedPointPixels(), *frame, g));
  }
}

TEST(Pixels, SizesFromOneTo4096Work) {
  for (int size : {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 1024, 4096}) {
    const FramePointer frame = make_frame(AV_PIX_FMT_YUV420P, 321, 241);
    fill_noise(*frame, 1);
    PixelGeometry g = whole_picture(*frame, size, std::min(size, 300));
    g.flip = size % 2 == 1;
    SCOPED_TRACE(describe(g));
    const Distance d = distance(convert_with(FixedPointPixels(), *frame, g),
                                convert_with(ReferencePixels(), *frame, g));
    EXPECT_LE(d.largest, 1);
  }
  // More taps than the fast way is made for.
  const FramePointer wide = make_frame(AV_PIX_FMT_YUV420P, 4096, 64);
  fill_noise(*wide, 1);
  PixelGeometry g = whole_picture(*wide, 8, 8);
  g.filter = Filter::kBicubic;
  EXPECT_EQ(convert_with(FixedPointPixels(), *wide, g), convert_with(ReferencePixels(), *wide, g));
}

TEST(Pixels, AFrameOfAnotherSizeThanItsStreamIsStretched) {
  const FramePointer frame = corner_frame(96, 80);
  PixelGeometry g = whole_picture(*frame, 16, 16);
  const auto truth = convert_with(ReferencePixels(), *frame, g);
  g.stream.width = 640;
  g.stream.height = 360;
  g.crop = {0, 0, 640, 360};
  for_each_way(*frame, g, [&](const std::vector<uint8_t>& out) { EXPECT_EQ(out, truth); });
}

TEST(Pixels, WritesNothingButItsRows) {
  const FramePointer frame = corner_frame(64, 48);
  for (int rotation : {0, 90, 180, 270})
    for (bool flip : {false, true})
      for (InstructionSet set : instruction_sets()) {
        PixelGeometry g = whole_picture(*frame, 37, 41, rotation);
        g.flip = flip;
        std::vector<uint8_t> slot(41 * 64 + 64, 0xee), planes(2 * slot.size());
        FixedPointPixels(set).convert(*frame, g, slot.data() + 16, planes.data(),
                                      planes.data() + slot.size(), 64);
        for (size_t i = 0; i < slot.size(); ++i) {
          const bool inside = i >= 16 && (i - 16) % 64 < 37 && (i - 16) / 64 < 41;
          ASSERT_EQ(slot[i] != 0xee, inside) << "byte " << i << " rotation " << rotation;
        }
      }
}

TEST(Pixels, AnUnknownFormatIsABadSample) {
  FramePointer frame(av_frame_alloc());
  frame->width = frame->height = 16;
  frame->format = AV_PIX_FMT_NONE;
  PixelGeometry g = whole_picture(*frame, 8, 8);
  std::vector<uint8_t> out(3 * 64);
  EXPECT_THROW(
      FixedPointPixels().convert(*frame, g, out.data(), out.data() + 64, out.data() + 128, 8),
      Error);
}

}  // namespace
}  // namespace keiko::media
