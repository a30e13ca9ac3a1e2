// NVDEC on a GPU: every test video through the same plan on both paths. Skips loudly without one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "base/rng.h"
#include "cuda/device_slot.h"
#include "cuda/gpu_decoding.h"
#include "cuda/memory.h"
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

class NvdecOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    media = std::getenv("KEIKO_TEST_MEDIA");
    if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
    const std::string why = GpuDecoding::why_not();
    if (!why.empty()) GTEST_SKIP() << "NO NVDEC: nothing was decoded on a GPU (" << why << ")";
  }
  const char* media = nullptr;
};

// A clip of every other frame from `start` on, whole pictures.
struct Wanted {
  Wanted(const media::PacketTable& table, const std::string& path, int64_t start) {
    for (int64_t t = 0; t < kFrames; ++t)
      frames.push_back(std::min(start + 2 * t, table.frame_count() - 1));
    request.table = &table;
    request.path = &path;
    request.frames = frames;
    request.crop = {0, 0, double(table.stream.display_width()),
                    double(table.stream.display_height())};
    request.size = kSize;
    request.allow_concealed = true;
    request.channel_stride = int64_t(kFrames) * kSize * kSize;
  }
  Wanted(const Wanted&) = delete;
  std::vector<int64_t> frames;
  media::ClipRequest request;
};

TEST_F(NvdecOnGpu, EveryTestVideoGivesThePixelsOfTheCpuPath) {
  // CUDA's runtime opens the context first, as torch does.
  const Stream stream(0);
  GpuDecoding decoding(default_env(), 0);
  const std::unique_ptr<media::ClipDecoder> gpu = decoding.make_decoder();
  media::CpuClipDecoder cpu(default_env());
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
        const int64_t start = int64_t(rng.below(uint64_t(table.frame_count())));
        Wanted clip(table, path, start);
        std::vector<uint8_t> wanted(bytes), found(bytes);
        clip.request.out = wanted.data();
        cpu.decode(clip.request);
        clip.request.out = slot.data();
        gpu->decode(clip.request);
        copy_to_host(found.data(), slot.data(), bytes, stream);
        stream.synchronize();
        const Difference d = difference(found, wanted);
        EXPECT_LT(d.mean, 1) << "clip from frame " << start;
        EXPECT_GE(d.within_three, 0.999) << "clip from frame " << start;
        ++clips;
      }
    }
  const NvdecTally::Counts counts = decoding.clips();
  EXPECT_GT(counts.on_gpu, 0);
  RecordProperty("clips", int(clips));
  RecordProperty("on_gpu", int(counts.on_gpu));
  RecordProperty("doubted", int(counts.doubted));
  RecordProperty("sessions", int(decoding.sessions().opened));
  for (const auto& [reason, count] : counts.on_cpu)
    std::printf("%lld clips on the CPU: %s\n", static_cast<long long>(count), reason.c_str());
  std::printf("%lld of %lld clips on the GPU, %lld sessions opened, %lld clips doubted\n",
              static_cast<long long>(counts.on_gpu), static_cast<long long>(clips),
              static_cast<long long>(decoding.sessions().opened),
              static_cast<long long>(counts.doubted));
}

// Two threads fill two slots in turn, and a stream reads them: the host waits at the end alone.
TEST_F(NvdecOnGpu, SlotsAreReadWhileOthersAreFilled) {
  GpuDecoding decoding(default_env(), 0);
  const std::string path = std::string(media) + "/real/asl_again.mkv";
  const media::PacketTable table = media::scan_video(path);
  const size_t bytes = 3 * size_t(kFrames) * kSize * kSize;
  constexpr int kBatches = 10, kClips = 4;
  const Stream reader(0);
  std::vector<std::unique_ptr<media::BatchBuffer>> slots;
  for (int i = 0; i < 2; ++i) slots.push_back(decoding.make_slot([&] { return reader.handle(); }));
  std::vector<std::unique_ptr<media::ClipDecoder>> decoders;
  for (int i = 0; i < 2; ++i) decoders.push_back(decoding.make_decoder());
  PinnedBuffer host(0, "the batches of a test");
  uint8_t* seen = host.reserve(kBatches * kClips * bytes);
  const auto start_of = [&](int clip) { return int64_t(clip * 7) % table.frame_count(); };
  for (int b = 0; b < kBatches; ++b) {
    media::BatchBuffer& slot = *slots[size_t(b % 2)];
    if (b >= 2) slot.take_back();
    uint8_t* memory = slot.reserve(kClips * bytes);
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        for (int c = t; c < kClips; c += 2) {
          Wanted clip(table, path, start_of(b * kClips + c));
          clip.request.out = memory + size_t(c) * bytes;
          clip.request.slot = &slot;
          decoders[size_t(t)]->decode(clip.request);
        }
      });
    for (std::thread& thread : threads) thread.join();
    slot.expect();
    slot.hand_out();
    copy_to_host(seen + size_t(b * kClips) * bytes, memory, kClips * bytes, reader);
  }
  reader.synchronize();
  EXPECT_GE(slots[0]->waited_s(), 0);
  media::CpuClipDecoder cpu(default_env());
  for (int c = 0; c < kBatches * kClips; ++c) {
    Wanted clip(table, path, start_of(c));
    std::vector<uint8_t> wanted(bytes);
    clip.request.out = wanted.data();
    cpu.decode(clip.request);
    const Difference d =
        difference({seen + size_t(c) * bytes, seen + size_t(c + 1) * bytes}, wanted);
    EXPECT_LT(d.mean, 1) << "clip " << c;
    EXPECT_GE(d.within_three, 0.999) << "clip " << c;
  }
  EXPECT_EQ(decoding.clips().on_gpu, kBatches * kClips);
}

}  // namespace
}  // namespace keiko::cuda
