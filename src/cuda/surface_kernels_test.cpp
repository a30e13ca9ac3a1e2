// The pixel kernel, thread by thread on the CPU, beside its reference.

#include <gtest/gtest.h>

#include "cuda/emulation_for_tests.h"
// After the words of CUDA that it needs.
#include "cuda/surface_frames_for_tests.h"
#include "cuda/surface_kernels.cuh"
#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

// As SurfacePixels and launch_surface_kernel do it.
class EmulatedSurfacePixels {
 public:
  void convert(const AVFrame& frame, const media::PixelGeometry& geometry, uint8_t* red,
               uint8_t* green, uint8_t* blue, int64_t row_stride) {
    plan_.prepare(frame, geometry);
    const SurfaceTask task = plan_.task(frame, plan_.tables().data(), red, green, blue, row_stride);
    const int columns = plan_.columns_read(kSurfaceTileColumns);
    const SurfaceLaunch launch = plan_surface_launch(task, columns);
    ++(launch.shared_bytes > 0 ? staged : direct);
    const auto kernel = [&] {
      if (launch.shared_bytes > 0)
        plan_.has_wide_samples() ? convert_surface<uint16_t, true>(task, columns)
                                 : convert_surface<uint8_t, true>(task, columns);
      else
        plan_.has_wide_samples() ? convert_surface<uint16_t, false>(task, columns)
                                 : convert_surface<uint8_t, false>(task, columns);
    };
    emulate({unsigned(launch.grid_x), unsigned(launch.grid_y)},
            {unsigned(kSurfaceTileColumns), unsigned(launch.warps)}, size_t(launch.shared_bytes),
            kernel);
  }

  int staged = 0, direct = 0;

 private:
  SurfacePlan plan_;
};

media::FramePointer noise_surface(AVPixelFormat format, int width, int height, unsigned seed) {
  const media::FramePointer frame = media::make_frame(format, width, height);
  media::fill_noise(*frame, seed);
  return to_surface(*frame, surface_format(format));
}

TEST(SurfaceKernel, GivesItsReferencesBitsForAnyGeometry) {
  std::mt19937 random(1);
  EmulatedSurfacePixels kernel;
  constexpr AVPixelFormat kFormats[] = {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV420P10LE,
                                        AV_PIX_FMT_YUV444P, AV_PIX_FMT_YUV444P12LE};
  for (int trial = 0; trial < 120; ++trial) {
    const auto surface = noise_surface(kFormats[trial % 4], 1 + int(random() % 300),
                                       1 + int(random() % 200), unsigned(random()));
    media::PixelGeometry g = media::whole_picture(*surface, 1 + int(random() % 100),
                                                  1 + int(random() % 60), int(random() % 4) * 90);
    g.crop.x = g.crop.width * (int(random() % 100) - 30) / 100.0;
    g.crop.width *= (5 + int(random() % 100)) / 100.0;
    g.flip = random() % 2 == 0;
    g.filter = random() % 2 == 0 ? media::Filter::kBilinear : media::Filter::kBicubic;
    if (trial % 6 == 0) g.stream.pixel_format = "gray";
    ASSERT_EQ(media::convert_with(kernel, *surface, g),
              media::convert_with(SurfacePixelsReference(), *surface, g))
        << "trial " << trial << ": " << surface->width << "x" << surface->height << " "
        << describe(g);
  }
  EXPECT_EQ(kernel.staged, 120);
}

// Wide pictures that become small ones need more columns than a block can stage: fewer warps share
// the memory, and then none stages.
TEST(SurfaceKernel, PicturesTooWideToStageGiveTheSameBits) {
  EmulatedSurfacePixels kernel;
  for (int width : {1100, 2500, 5000, 9000, 14000})
    for (AVPixelFormat format : {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV420P10LE}) {
      const auto surface = noise_surface(format, width, 24, unsigned(width));
      const media::PixelGeometry g = media::whole_picture(*surface, 20, 11);
      ASSERT_EQ(media::convert_with(kernel, *surface, g),
                media::convert_with(SurfacePixelsReference(), *surface, g))
          << width << " columns";
    }
  EXPECT_EQ(kernel.staged, 8);
  EXPECT_EQ(kernel.direct, 2);
}

TEST(SurfaceKernel, WritesNothingButItsRows) {
  const auto surface = noise_surface(AV_PIX_FMT_YUV420P, 64, 48, 1);
  for (int rotation : {0, 90, 180, 270}) {
    const media::PixelGeometry g = media::whole_picture(*surface, 37, 21, rotation);
    constexpr int kStride = 50, kRows = 21;
    std::vector<uint8_t> out(3 * kStride * kRows, 77);
    uint8_t* red = out.data();
    EmulatedSurfacePixels().convert(*surface, g, red, red + kStride * kRows,
                                    red + 2 * kStride * kRows, kStride);
    const auto truth = media::convert_with(SurfacePixelsReference(), *surface, g);
    for (int row = 0; row < 3 * kRows; ++row)
      for (int x = 0; x < kStride; ++x)
        ASSERT_EQ(int(out[size_t(row * kStride + x)]),
                  x < 37 ? int(truth[size_t(row * 37 + x)]) : 77)
            << "rotation " << rotation << " row " << row << " column " << x;
  }
}

}  // namespace
}  // namespace keiko::cuda
