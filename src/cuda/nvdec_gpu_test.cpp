// NVDEC on a GPU: every test video through the same plan on both paths. Skips loudly without one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/rng.h"
#include "cuda/memory.h"
#include "cuda/nvdec_clip_decoder.h"
#include "cuda/nvdec_cuda_device.h"
#include "cuda/nvdec_surface_converter.h"
#include "media/packet_table.h"

namespace keiko::cuda {
namespace {

constexpr int kSize = 112, kFrames = 8;

// What two paths differ by, in levels.
struct Difference {
  double mean = 0, within_three = 1;  // mean absolute; share of values
};
Difference difference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  double sum = 0, near = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int d = std::abs(int(a[i]) - int(b[i]));
    sum += d;
    near += d <= 3;
  }
  return {sum / double(a.size()), near / double(a.size())};
}

TEST(NvdecOnGpu, EveryTestVideoGivesThePixelsOfTheCpuPath) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  const NvidiaDriver driver;
  const std::string why = !driver.why_no_gpu().empty()     ? driver.why_no_gpu()
                          : !driver.why_no_nvdec().empty() ? driver.why_no_nvdec()
                                                           : why_no_device();
  if (!why.empty()) GTEST_SKIP() << "NO NVDEC: nothing was decoded on a GPU (" << why << ")";
  const auto device = open_cuda_device(driver, 0);
  NvdecTally tally;
  NvdecSessionPool pool(
      [&](const NvdecSessionKey&, const media::StreamParameters& stream) {
        return open_nvdec_session(*device, stream, NvdecClipDecoder::kMapped);
      },
      {});
  NvdecClipDecoder gpu(default_env(), *device, pool, make_surface_converter(0), tally);
  media::CpuClipDecoder cpu(default_env());
  const Stream stream(0);
  const size_t bytes = 3 * size_t(kFrames) * kSize * kSize;
  const DeviceBuffer slot(0, bytes, "the slot of a test");
  Rng rng(5, keiko::Stream::kClip, 0);
  int64_t clips = 0;
  for (const char* part : {"/real", "/edge"})
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(media + std::string(part))) {
      if (!entry.is_regular_file()) continue;
      const std::string path = entry.path().string();
      SCOPED_TRACE(path);
      media::PacketTable table;
      try {
        table = media::scan_video(path);
      } catch (const Error&) {
        continue;  // no video
      }
      if (table.frame_count() == 0) continue;
      for (int c = 0; c < 3; ++c) {
        std::vector<int64_t> frames;
        const int64_t start = int64_t(rng.below(uint64_t(table.frame_count())));
        for (int64_t t = 0; t < kFrames; ++t)
          frames.push_back(std::min(start + 2 * t, table.frame_count() - 1));
        media::ClipRequest request;
        request.table = &table;
        request.path = &path;
        request.frames = frames;
        request.crop = {0, 0, double(table.stream.display_width()),
                        double(table.stream.display_height())};
        request.size = kSize;
        request.allow_concealed = true;
        request.channel_stride = int64_t(kFrames) * kSize * kSize;
        std::vector<uint8_t> wanted(bytes), found(bytes);
        request.out = wanted.data();
        cpu.decode(request);
        request.out = slot.data();
        gpu.decode(request);
        copy_to_host(found.data(), slot.data(), bytes, stream);
        stream.synchronize();
        const Difference d = difference(found, wanted);
        EXPECT_LT(d.mean, 1) << "clip from frame " << start;
        EXPECT_GE(d.within_three, 0.999) << "clip from frame " << start;
        ++clips;
      }
    }
  const NvdecTally::Counts counts = tally.counts();
  EXPECT_GT(counts.on_gpu, 0);
  RecordProperty("clips", int(clips));
  RecordProperty("on_gpu", int(counts.on_gpu));
  RecordProperty("doubted", int(counts.doubted));
  RecordProperty("sessions", int(pool.counts().opened));
  for (const auto& [reason, count] : counts.on_cpu)
    std::printf("%lld clips on the CPU: %s\n", static_cast<long long>(count), reason.c_str());
  std::printf("%lld of %lld clips on the GPU, %lld sessions opened, %lld clips doubted\n",
              static_cast<long long>(counts.on_gpu), static_cast<long long>(clips),
              static_cast<long long>(pool.counts().opened), static_cast<long long>(counts.doubted));
}

}  // namespace
}  // namespace keiko::cuda
