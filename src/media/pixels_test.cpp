#include "media/pixels.h"

#include <gtest/gtest.h>

extern "C" {
#include <libavutil/pixdesc.h>
}

#include <cmath>
#include <random>

namespace keiko::media {
namespace {

FramePointer make_frame(AVPixelFormat format, int width, int height) {
  FramePointer frame(av_frame_alloc());
  frame->format = format;
  frame->width = width;
  frame->height = height;
  av_frame_get_buffer(frame.get(), 0);
  return frame;
}

// A picture with one bright quarter at the top left.
FramePointer corner_frame(int width, int height) {
  FramePointer frame = make_frame(AV_PIX_FMT_GRAY8, width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      frame->data[0][y * frame->linesize[0] + x] = x < width / 2 && y < height / 2 ? 200 : 10;
  return frame;
}

using Converter = PixelConverter<double>;

std::vector<uint8_t> convert(const AVFrame& frame, Converter::Geometry g) {
  std::vector<uint8_t> out(size_t(3) * g.out_width * g.out_height);
  const size_t plane = size_t(g.out_width) * g.out_height;
  Converter().convert(frame, g, out.data(), out.data() + plane, out.data() + 2 * plane,
                      g.out_width);
  return out;
}

Converter::Geometry whole(const AVFrame& frame, int rotation, int out_width, int out_height) {
  Converter::Geometry g;
  g.stream.width = frame.width;
  g.stream.height = frame.height;
  g.stream.rotation = rotation;
  g.crop = {0, 0, g.stream.display_width(), g.stream.display_height()};
  g.out_width = out_width;
  g.out_height = out_height;
  return g;
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
    Converter::Geometry g = whole(*frame, c.rotation, 16, 12);
    g.flip = c.flip;
    const auto out = convert(*frame, g);
    const uint8_t corners[] = {out[2 * 16 + 2], out[2 * 16 + 13], out[9 * 16 + 13],
                               out[9 * 16 + 2]};
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(corners[i], i == c.corner ? 200 : 10)
          << "rotation " << c.rotation << " flip " << c.flip << " corner " << i;
  }
}

TEST(Pixels, KnownColoursComeOutRight) {
  // BT.709 limited: pure red is Y 63, Cb 102, Cr 240; BT.601 full: Y 76, Cb 85, Cr 255.
  struct {
    int space, range, y, u, v;
  } const cases[] = {{AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 63, 102, 240},
                     {AVCOL_SPC_SMPTE170M, AVCOL_RANGE_JPEG, 76, 85, 255}};
  for (const auto& c : cases) {
    FramePointer frame = make_frame(AV_PIX_FMT_YUV420P, 16, 16);
    for (int plane = 0; plane < 3; ++plane)
      std::fill_n(frame->data[plane], frame->linesize[plane] * (plane ? 8 : 16),
                  uint8_t(plane == 0   ? c.y
                          : plane == 1 ? c.u
                                       : c.v));
    frame->colorspace = AVColorSpace(c.space);
    frame->color_range = AVColorRange(c.range);
    const auto out = convert(*frame, whole(*frame, 0, 4, 4));
    EXPECT_NEAR(out[0], 255, 2);
    EXPECT_NEAR(out[16], 0, 2);
    EXPECT_NEAR(out[32], 0, 2);
  }
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

TEST(Pixels, TheFastWayStaysNearTheReference) {
  std::mt19937 random(1);
  FramePointer frame = make_frame(AV_PIX_FMT_YUV420P, 322, 241);
  for (int plane = 0; plane < 3; ++plane)
    for (int i = 0; i < frame->linesize[plane] * (plane ? 121 : 241); ++i)
      frame->data[plane][i] = uint8_t(random());
  Converter::Geometry g = whole(*frame, 0, 112, 112);
  g.crop = {13.3, 7.7, 220.1, 200.9};
  const auto reference = convert(*frame, g);
  PixelConverter<float>::Geometry fast_geometry{g.stream, g.crop, 112, 112, g.flip, g.filter};
  std::vector<uint8_t> fast(reference.size());
  PixelConverter<float>().convert(*frame, fast_geometry, fast.data(), fast.data() + 112 * 112,
                                  fast.data() + 2 * 112 * 112, 112);
  int different = 0;
  for (size_t i = 0; i < fast.size(); ++i) {
    ASSERT_LE(std::abs(int(fast[i]) - int(reference[i])), 1) << "value " << i;
    different += fast[i] != reference[i];
  }
  EXPECT_LT(different, int(fast.size() / 1000));
}

}  // namespace
}  // namespace keiko::media
