// What only a GPU can show: kernels on the device give their references' bits, streams and events
// keep order, and a device that is full says so.

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "cuda/device_copies_for_tests.h"
#include "cuda/patch_kernels.h"
#include "cuda/surface_frames_for_tests.h"
#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (device_count() == 0)
      GTEST_SKIP() << "NO GPU: kernels were NOT run on a device (" << why_no_device() << ")";
  }
};

media::FramePointer noise_surface(AVPixelFormat format, int width, int height, unsigned seed) {
  const media::FramePointer frame = media::make_frame(format, width, height);
  media::fill_noise(*frame, seed);
  return to_surface(*frame, surface_format(format));
}

// SurfacePixels behind the interface that host converters have.
class OnDevice {
 public:
  explicit OnDevice(const Stream& stream) : stream_(stream) {}

  std::vector<uint8_t> convert(const AVFrame& host, const media::PixelGeometry& g, int padding) {
    const SurfaceOnDevice surface(host, padding, stream_);
    const size_t plane = size_t(g.out_width) * size_t(g.out_height);
    const DeviceBuffer out(stream_.device(), 3 * plane, "the output of a test");
    uint8_t* red = out.data();
    pixels_.convert(surface.frame(), g, red, red + plane, red + 2 * plane, g.out_width, stream_);
    return to_host<uint8_t>(out, stream_);
  }

 private:
  const Stream& stream_;
  SurfacePixels pixels_;
};

TEST_F(Gpu, ThePixelKernelGivesItsReferencesBits) {
  const Stream stream(0);
  OnDevice device(stream);
  std::mt19937 random(1);
  constexpr AVPixelFormat kFormats[] = {AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV420P10LE,
                                        AV_PIX_FMT_YUV420P12LE, AV_PIX_FMT_YUV444P,
                                        AV_PIX_FMT_YUV444P12LE};
  for (int trial = 0; trial < 400; ++trial) {
    // The last are too wide to be staged in shared memory.
    const int most = trial < 380 ? 900 : 15000;
    const auto surface =
        noise_surface(kFormats[trial % 5], 1 + int(random() % unsigned(most)),
                      1 + int(random() % unsigned(trial < 380 ? 500 : 40)), unsigned(random()));
    media::PixelGeometry g = media::whole_picture(*surface, 1 + int(random() % 250),
                                                  1 + int(random() % 250), int(random() % 4) * 90);
    if (trial >= 380) g.out_width = g.out_height = 1 + int(random() % 8);
    g.crop.x = g.crop.width * (int(random() % 100) - 30) / 100.0;
    g.crop.width *= (5 + int(random() % 100)) / 100.0;
    g.flip = random() % 2 == 0;
    g.filter = random() % 2 == 0 ? media::Filter::kBilinear : media::Filter::kBicubic;
    ASSERT_EQ(device.convert(*surface, g, 2 * int(random() % 40)),
              media::convert_with(SurfacePixelsReference(), *surface, g))
        << "trial " << trial << ": " << surface->width << "x" << surface->height << " "
        << describe(g);
  }
}

// Conversions of many clips are under way at once, and tables are replaced under them.
TEST_F(Gpu, TablesStayWhileConversionsThatReadThemAreUnderWay) {
  const Stream stream(0);
  SurfacePixels pixels;
  const auto surface = noise_surface(AV_PIX_FMT_YUV420P, 1280, 720, 2);
  const SurfaceOnDevice on_device(*surface, 0, stream);
  constexpr size_t kPlane = 224 * 224;
  constexpr int kClips = 64;
  const DeviceBuffer out(0, 3 * kPlane * kClips, "the output of a test");
  const auto geometry = [&](int clip) {
    media::PixelGeometry g = media::whole_picture(*surface, 224, 224);
    g.crop = {clip * 3.7, clip * 1.9, 600, 400};
    return g;
  };
  for (int clip = 0; clip < kClips; ++clip) {
    uint8_t* red = out.data() + size_t(clip) * 3 * kPlane;
    pixels.convert(on_device.frame(), geometry(clip), red, red + kPlane, red + 2 * kPlane, 224,
                   stream);
  }
  const std::vector<uint8_t> seen = to_host<uint8_t>(out, stream);
  for (int clip = 0; clip < kClips; ++clip) {
    const auto truth = media::convert_with(SurfacePixelsReference(), *surface, geometry(clip));
    ASSERT_TRUE(std::equal(truth.begin(), truth.end(), seen.begin() + clip * int(3 * kPlane)))
        << "clip " << clip;
  }
}

template <class T>
void compare_patches(const PatchGrid& grid, PatchType type, const Stream& stream) {
  std::mt19937 random(3);
  const int64_t clips = 3, kept = 5, tokens = grid.times * grid.rows * grid.columns;
  std::vector<uint8_t> video(size_t(clips * tokens * 3 * grid.channel_values()));
  for (uint8_t& x : video) x = uint8_t(random());
  std::vector<int64_t> ids(size_t(clips * kept));
  for (int64_t& id : ids) id = int64_t(random() % unsigned(tokens));
  const PatchInput host{video.data(), ids.data(), clips, kept, grid};
  std::vector<T> said(size_t(host.patches() * host.patch_values())), truth(said.size());
  for (T& x : said) store_float(float(random() % 20001) / 5000 - 2, &x);
  std::vector<float> upstream(size_t(host.patches())), errors(upstream.size());
  for (float& x : upstream) x = float(random() % 20001) / 10000 - 1;

  const DeviceBuffer video_there = to_device(video, stream), ids_there = to_device(ids, stream);
  const DeviceBuffer said_there = to_device(said, stream);
  const DeviceBuffer upstream_there = to_device(upstream, stream);
  const DeviceBuffer out(0, said.size() * sizeof(T), "the output of a test");
  const DeviceBuffer errors_there(0, errors.size() * sizeof(float), "the output of a test");
  const PatchInput there{video_there.data(), reinterpret_cast<const int64_t*>(ids_there.data()),
                         clips, kept, grid};
  auto* errors_out = reinterpret_cast<float*>(errors_there.data());
  const auto expect_equal = [&](const char* what) {
    const std::vector<T> seen = to_host<T>(out, stream);
    EXPECT_EQ(std::memcmp(seen.data(), truth.data(), truth.size() * sizeof(T)), 0) << what;
  };
  reference::take_patches(host, type, truth.data());
  take_patches(there, type, out.data(), stream);
  expect_equal("take_patches");
  for (PatchTarget unit : {PatchTarget::kUnit, PatchTarget::kImageNet, PatchTarget::kPatch}) {
    SCOPED_TRACE(int(unit));
    reference::take_targets(host, unit, type, truth.data());
    take_targets(there, unit, type, out.data(), stream);
    expect_equal("take_targets");
    reference::target_errors(host, unit, type, said.data(), errors.data());
    target_errors(there, unit, type, said_there.data(), errors_out, stream);
    EXPECT_EQ(to_host<float>(errors_there, stream), errors);
    reference::target_errors_backward(host, unit, type, said.data(), upstream.data(), truth.data());
    target_errors_backward(there, unit, type, said_there.data(),
                           reinterpret_cast<const float*>(upstream_there.data()), out.data(),
                           stream);
    expect_equal("target_errors_backward");
  }
}

TEST_F(Gpu, ThePatchKernelsGiveTheirReferencesBits) {
  const Stream stream(0);
  for (const PatchGrid& grid : {PatchGrid{8, 14, 14, 2, 16}, PatchGrid{2, 3, 2, 2, 8},
                                PatchGrid{2, 2, 2, 2, 14}, PatchGrid{1, 2, 5, 3, 4}}) {
    SCOPED_TRACE(grid.patch_size);
    compare_patches<float>(grid, PatchType::kFloat32, stream);
    compare_patches<Bfloat16>(grid, PatchType::kBfloat16, stream);
  }
}

TEST_F(Gpu, CopiesFromPinnedMemoryArriveAndEventsMarkThem) {
  const Stream first(0), second(0);
  Event copied(0, true), back(0, true);
  EXPECT_TRUE(copied.is_reached()) << "a fresh event is reached";
  constexpr size_t kSize = 64 << 20;
  PinnedBuffer from(0, "a test"), to(0, "a test");
  uint8_t* source = from.reserve(kSize);
  uint8_t* target = to.reserve(kSize);
  for (size_t i = 0; i < kSize; ++i) source[i] = uint8_t(i * 2654435761u >> 13);
  const DeviceBuffer there(0, kSize, "a test");
  copy_to_device(there.data(), source, kSize, first);
  copied.record(first);
  second.wait(copied);  // without this the copy back would bring what was there before
  copy_to_host(target, there.data(), kSize, second);
  back.record(second);
  back.synchronize();
  EXPECT_TRUE(copied.is_reached());
  EXPECT_EQ(std::memcmp(source, target, kSize), 0);
  EXPECT_GT(back.elapsed_ms(copied), 0);
}

TEST_F(Gpu, ADeviceThatIsFullSaysForWhatAndHowMuch) {
  try {
    DeviceBuffer(0, size_t(1) << 46, "the moon");
    FAIL() << "64 TiB were given";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    for (const char* part :
         {"cudaMalloc on device 0", "for the moon", "70368744177664 bytes", "bytes free"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  const DeviceMemory memory = device_memory(0);
  EXPECT_GT(memory.total, memory.free - 1);
  EXPECT_FALSE(device_name(0).empty());
  DeviceBuffer(0, 1 << 20, "what comes after an error");
}

}  // namespace
}  // namespace keiko::cuda
