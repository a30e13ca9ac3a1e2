// The pixel kernel: surfaces of the sizes that videos have, to 224 x 224.

#include <memory>

#include "cuda/device_copies_for_tests.h"
#include "cuda/surface_frames_for_tests.h"
#include "cuda/surface_pixels.h"
#include "kernels.h"

namespace keiko::bench {
namespace {

constexpr int kSize = 224;
constexpr size_t kPlane = size_t(kSize) * kSize;

struct SurfaceSize {
  const char* name;
  AVPixelFormat format;  // planar, before it becomes a surface
  int width, height, rotation;
  media::Filter filter;
};

const SurfaceSize kSizes[] = {
    {"surface nv12 340x256", AV_PIX_FMT_YUV420P, 340, 256, 0, media::Filter::kBilinear},
    {"surface nv12 1280x720", AV_PIX_FMT_YUV420P, 1280, 720, 0, media::Filter::kBilinear},
    {"surface nv12 1920x1080", AV_PIX_FMT_YUV420P, 1920, 1080, 0, media::Filter::kBilinear},
    {"surface nv12 1920x1080 bicubic", AV_PIX_FMT_YUV420P, 1920, 1080, 0, media::Filter::kBicubic},
    {"surface nv12 1920x1080 turned", AV_PIX_FMT_YUV420P, 1920, 1080, 90, media::Filter::kBilinear},
    {"surface p010 3840x2160", AV_PIX_FMT_YUV420P10LE, 3840, 2160, 0, media::Filter::kBilinear},
    {"surface yuv444p 1280x720", AV_PIX_FMT_YUV444P, 1280, 720, 0, media::Filter::kBilinear},
    {"surface nv12 16000x64 unstaged", AV_PIX_FMT_YUV420P, 16000, 64, 0, media::Filter::kBilinear}};

enum class Fill { kNoise, kBlack, kWhite, kChecks };

media::FramePointer make_source(const SurfaceSize& size, Fill fill, unsigned seed) {
  media::FramePointer frame = media::make_frame(size.format, size.width, size.height);
  frame->color_range = AVCOL_RANGE_MPEG;
  frame->colorspace = AVCOL_SPC_BT709;
  const int most = (1 << av_pix_fmt_desc_get(size.format)->comp[0].depth) - 1;
  if (fill == Fill::kNoise)
    media::fill_noise(*frame, seed);
  else
    media::for_each_sample(*frame, [&](int, int x, int y) {
      return fill == Fill::kBlack ? 0 : fill == Fill::kWhite || (x + y) % 2 == 0 ? most : 0;
    });
  return frame;
}

media::PixelGeometry geometry_of(const SurfaceSize& size, const AVFrame& frame) {
  media::PixelGeometry g = media::whole_picture(frame, kSize, kSize, size.rotation);
  g.filter = size.filter;
  return g;
}

Comparison compare(const SurfaceSize& size, Fill fill, unsigned seed, const cuda::Stream* stream) {
  const media::FramePointer source = make_source(size, fill, seed);
  const media::FramePointer surface = cuda::to_surface(*source, cuda::surface_format(size.format));
  const media::PixelGeometry g = geometry_of(size, *surface);
  const auto truth = media::convert_with(media::ReferencePixels(), *source, g);
  const auto reference = media::convert_with(cuda::SurfacePixelsReference(), *surface, g);
  Comparison c;
  c.values = int64_t(truth.size());
  c.largest_error = media::distance(reference, truth).largest;
  for (size_t i = 0; i < truth.size(); ++i) c.share_off += reference[i] != truth[i];
  c.share_off /= double(truth.size());
  if (stream == nullptr) return c;
  const cuda::SurfaceOnDevice there(*surface, 64, *stream);
  const cuda::DeviceBuffer out(stream->device(), 3 * kPlane, "pixels");
  cuda::SurfacePixels pixels;
  uint8_t* red = out.data();
  pixels.convert(there.frame(), g, red, red + kPlane, red + 2 * kPlane, kSize, *stream);
  const auto seen = cuda::to_host<uint8_t>(out, *stream);
  c.was_run = true;
  for (size_t i = 0; i < seen.size(); ++i) c.differing_bytes += seen[i] != reference[i];
  return c;
}

std::function<void()> prepare_timing(const SurfaceSize& size, unsigned seed,
                                     const cuda::Stream& stream) {
  struct Timing {
    std::unique_ptr<cuda::SurfaceOnDevice> surface;
    cuda::DeviceBuffer out;
    cuda::SurfacePixels pixels;
    media::PixelGeometry geometry;
  };
  const media::FramePointer source = make_source(size, Fill::kNoise, seed);
  const media::FramePointer surface = cuda::to_surface(*source, cuda::surface_format(size.format));
  const auto timing = std::make_shared<Timing>();
  timing->surface = std::make_unique<cuda::SurfaceOnDevice>(*surface, 0, stream);
  timing->out = cuda::DeviceBuffer(stream.device(), 3 * kPlane, "pixels");
  timing->geometry = geometry_of(size, *surface);
  return [timing, &stream] {
    uint8_t* red = timing->out.data();
    timing->pixels.convert(timing->surface->frame(), timing->geometry, red, red + kPlane,
                           red + 2 * kPlane, kSize, stream);
  };
}

}  // namespace

std::vector<KernelCase> surface_cases(unsigned seed) {
  std::vector<KernelCase> cases;
  for (const SurfaceSize& size : kSizes) {
    KernelCase one;
    one.name = size.name;
    one.tolerance = 1;
    one.share_tolerance = 0.001;
    for (const auto& [name, fill] : {std::pair{"noise", Fill::kNoise},
                                     {"black", Fill::kBlack},
                                     {"white", Fill::kWhite},
                                     {"checks", Fill::kChecks}})
      one.inputs.emplace_back(name, [&size, fill, seed](const cuda::Stream* stream) {
        return compare(size, fill, seed, stream);
      });
    one.prepare_timing = [&size, seed](const cuda::Stream& stream) {
      return prepare_timing(size, seed, stream);
    };
    const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(size.format);
    const int64_t samples = int64_t(size.width) * size.height;
    one.timed_bytes = (samples + 2 * (samples >> (d->log2_chroma_w + d->log2_chroma_h))) *
                          (d->comp[0].depth > 8 ? 2 : 1) +
                      int64_t(3 * kPlane);
    cases.push_back(std::move(one));
  }
  return cases;
}

}  // namespace keiko::bench
