#include "cuda/nvdec_clip_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <thread>

extern "C" {
#include <libavutil/buffer.h>
#include <libavutil/hwcontext.h>
}

#include "base/error.h"
#include "base/rng.h"
#include "base/temp_folder.h"
#include "cuda/emulated_device_for_tests.h"
#include "media/clip_encoder.h"
#include "media/pixels_test_frames.h"

namespace keiko::cuda {
namespace {

// The device "in memory", with doubts: it may say that it takes no H.264, or want frames in a
// format that no software decoder offers.
struct Doubts : HostDevice {
  bool takes_h264 = true;
  AVPixelFormat format = AV_PIX_FMT_NONE;
  NvdecCaps caps(const std::string& codec, Chroma chroma, int bit_depth) const override {
    NvdecCaps caps = HostDevice::caps(codec, chroma, bit_depth);
    caps.is_supported = takes_h264 || codec != "h264";
    return caps;
  }
  AVPixelFormat surface_format() const override { return format; }
};

struct Gpu {
  Doubts device;
  NvdecTally tally;
  EmulatedDevice emulated{1, 300};  // sessions wait for it when they go
  NvdecSessionPool pool{[this](const NvdecSessionKey&, const media::StreamParameters& stream) {
                          return open_nvdec_session(device, stream, NvdecClipDecoder::kMapped);
                        },
                        {}};
  NvdecClipDecoder decoder{default_env(), device, pool,
                           std::make_unique<EmulatedConverter>(emulated), tally};
};

// A clip to be cut twice out of one decode, as the loader asks for it.
class Clip {
 public:
  Clip(const media::PacketTable& table, const std::string& path, std::vector<int64_t> frames,
       bool allow_concealed = false)
      : frames_(std::move(frames)) {
    const double w = table.stream.display_width(), h = table.stream.display_height();
    request_.table = &table;
    request_.path = &path;
    request_.frames = frames_;
    request_.crop = {0, 0, w, h};
    request_.size = kSize;
    request_.allow_concealed = allow_concealed;
    // Clips of a batch are apart: a channel's stride is no multiple of the clip's size.
    request_.channel_stride = int64_t(frames_.size()) * kSize * kSize + 64;
    pixels_.assign(2, std::vector<uint8_t>(3 * size_t(request_.channel_stride), 0xa5));
    view_ = {{w / 4, h / 8, w / 2, h / 2}, true, pixels_[1].data()};
    request_.out = pixels_[0].data();
    request_.more_views = {&view_, 1};
  }
  Clip(const Clip&) = delete;
  std::vector<std::vector<uint8_t>>& through(media::ClipDecoder& decoder,
                                             media::BatchBuffer* slot = nullptr) {
    request_.slot = slot;
    decoder.decode(request_);
    return pixels_;
  }
  const std::vector<std::vector<uint8_t>>& pixels() const { return pixels_; }

 private:
  static constexpr int kSize = 24;
  std::vector<int64_t> frames_;
  media::ClipRequest request_;
  media::ClipView view_;
  std::vector<std::vector<uint8_t>> pixels_;
};

// A video of 60 noisy frames, GOPs of 12.
struct Video {
  TempFolder folder;
  std::string path = folder.path() + "/x.mp4";
  media::PacketTable table;
  std::vector<uint8_t> bytes;
  Video() {
    Rng rng(1, Stream::kSynth, 0);
    std::vector<uint8_t> luma(64 * 64 * 60);
    for (size_t i = 0; i < luma.size(); ++i)
      luma[i] = uint8_t(i / 64 + i % 64 * 3 + i / 4096 * 5 + rng.below(20));
    media::EncoderOptions options;
    options.width = options.height = 64;
    options.keyframe_interval = 12;
    bytes = media::encode_mp4(luma, options);
    write();
    table = media::scan_video(path);
  }
  void write() {
    publish(default_env(), path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
};

std::vector<int64_t> some_frames(Rng& rng, int64_t count) {
  std::vector<int64_t> frames;
  const int64_t start = int64_t(rng.below(uint64_t(count))), stride = 1 + int64_t(rng.below(5));
  for (int64_t t = 0; t < 10; ++t) frames.push_back(std::min(start + t * stride, count - 1));
  return frames;
}

void expect_like_the_cpu(Gpu& gpu, const media::PacketTable& table, const std::string& path,
                         uint64_t seed, int clips) {
  SCOPED_TRACE(path);
  media::CpuClipDecoder cpu(default_env());
  Rng rng(seed, Stream::kClip, 0);
  for (int c = 0; c < clips; ++c) {
    const std::vector<int64_t> frames = some_frames(rng, table.frame_count());
    Clip a(table, path, frames, true), b(table, path, frames, true);
    EXPECT_EQ(a.through(gpu.decoder), b.through(cpu)) << "clip " << c << " from " << frames[0];
  }
}

TEST(NvdecClipDecoder, PixelsEqualTheCpuPathWithTheSameConverter) {
  const Video video;
  Gpu gpu;
  expect_like_the_cpu(gpu, video.table, video.path, 1, 30);
  EXPECT_EQ(gpu.tally.counts().on_gpu, 30);
  EXPECT_EQ(gpu.pool.counts().opened, 1);
  EXPECT_EQ(gpu.pool.counts().reused, 29);
}

TEST(NvdecClipDecoder, EveryTestVideoGivesThePixelsOfTheCpuPath) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  Gpu gpu;
  int64_t files = 0;
  for (const char* part : {"/real", "/edge"})
    for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + part)) {
      const std::string path = entry.path().string();
      expect_like_the_cpu(gpu, media::scan_video(path), path, 2, 2);
      ++files;
    }
  const NvdecTally::Counts counts = gpu.tally.counts();
  int64_t on_cpu = 0;
  for (const auto& [reason, clips] : counts.on_cpu) on_cpu += clips;
  EXPECT_EQ(counts.on_gpu + on_cpu + counts.doubted, 2 * files);
  EXPECT_GT(counts.on_gpu, files);
  EXPECT_EQ(counts.on_cpu.count("Keiko decodes h264, hevc, vp9 and av1 with NVDEC, not vp8"), 1u);
}

TEST(NvdecClipDecoder, WhatTheGpuDoesNotTakeIsDecodedOnTheCpu) {
  const Video video;
  Gpu gpu;
  gpu.device.takes_h264 = false;
  expect_like_the_cpu(gpu, video.table, video.path, 3, 5);
  EXPECT_EQ(gpu.tally.counts().on_cpu.at("NVDEC of this GPU does not take h264 of 8 bits, 4:2:0"),
            5);
  EXPECT_EQ(gpu.pool.counts().opened, 0);
}

TEST(NvdecClipDecoder, ADecoderThatWouldGoOnInSoftwareIsRefusedByName) {
  const Video video;
  Gpu gpu;
  gpu.device.format = AV_PIX_FMT_CUDA;  // no device is behind it, so libavcodec cannot open it
  expect_like_the_cpu(gpu, video.table, video.path, 4, 3);
  const NvdecTally::Counts counts = gpu.tally.counts();
  EXPECT_EQ(counts.on_gpu, 0);
  EXPECT_EQ(counts.doubted, 0) << "it is not the video's fault";
  ASSERT_EQ(counts.on_cpu.size(), 1u);
  EXPECT_EQ(counts.on_cpu.begin()->second, 3);
  EXPECT_EQ(gpu.pool.counts().idle, 0u) << "a session that refused was kept";
}

TEST(NvdecClipDecoder, DamageIsConfirmedOnTheCpuBeforeASampleIsBad) {
  Video video;
  // The packet keeps its NAL header (4 bytes of length, 1 of type); its slice becomes zeros.
  const uint32_t packet = video.table.frame_packet[15];
  for (uint32_t i = 5; i < video.table.size[packet]; ++i)
    video.bytes[size_t(video.table.position[packet]) + i] = 0;
  video.write();
  Gpu gpu;
  Clip bad(video.table, video.path, {14, 15, 16}), good(video.table, video.path, {40, 41, 50});
  try {
    bad.through(gpu.decoder);
    FAIL() << "damage went unnoticed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kData);
    EXPECT_NE(std::string(e.what()).find(video.path), std::string::npos) << e.what();
  }
  EXPECT_EQ(gpu.tally.counts().doubted, 1);
  EXPECT_EQ(gpu.tally.counts().found_bad, 1);
  EXPECT_EQ(gpu.pool.counts().failed, 1) << "what a damaged clip leaves behind must serve no other";
  media::CpuClipDecoder cpu(default_env());
  Clip same(video.table, video.path, {40, 41, 50});
  EXPECT_EQ(good.through(gpu.decoder), same.through(cpu));
  // Asked to take pictures as they are, both give the CPU's.
  Clip kept(video.table, video.path, {17, 18}, true);
  media::CpuClipDecoder clean(default_env());
  Clip kept_on_cpu(video.table, video.path, {17, 18}, true);
  EXPECT_EQ(kept.through(gpu.decoder), kept_on_cpu.through(clean));
  EXPECT_EQ(gpu.tally.counts().doubted, 2);
  EXPECT_EQ(gpu.tally.counts().found_bad, 1);
}

TEST(NvdecClipDecoder, AFileThatCannotBeReadIsNoBadSample) {
  const Video video;
  Gpu gpu;
  const std::string gone = video.folder.path() + "/gone.mp4";
  Clip clip(video.table, gone, {1, 2});
  try {
    clip.through(gpu.decoder);
    FAIL() << "a file that is not there was read";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kIo);
  }
  EXPECT_EQ(gpu.tally.counts().doubted, 0);
}

TEST(NvdecClipDecoder, ManyThreadsShareOnePool) {
  const Video video;
  Gpu gpu;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      NvdecClipDecoder decoder(default_env(), gpu.device, gpu.pool,
                               std::make_unique<EmulatedConverter>(gpu.emulated), gpu.tally);
      media::CpuClipDecoder cpu(default_env());
      Rng rng(6, Stream::kClip, t);
      for (int c = 0; c < 15; ++c) {
        const auto frames = some_frames(rng, video.table.frame_count());
        Clip a(video.table, video.path, frames), b(video.table, video.path, frames);
        EXPECT_EQ(a.through(decoder), b.through(cpu)) << "thread " << t << " clip " << c;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gpu.tally.counts().on_gpu, 4 * 15);
  EXPECT_LE(gpu.pool.counts().opened, 4);
}

// Clips that stand for a slot's parts: its order is what counts here, not where it lies.
struct Slot {
  explicit Slot(EmulatedDevice& device)
      : reader(device.make_queue()), slot(0, std::make_unique<media::HeapBuffer>(), reader) {}
  std::shared_ptr<EmulatedDevice::Queue> reader;
  DeviceSlot slot;
};

bool ends_within(const std::future<void>& work, int ms) {
  return work.wait_for(std::chrono::milliseconds(ms)) == std::future_status::ready;
}

TEST(NvdecClipDecoder, AClipInASlotIsGivenToTheDeviceAndNotWaitedFor) {
  const Video video;
  Gpu gpu;
  Slot s(gpu.emulated);
  Clip clip(video.table, video.path, {3, 4, 9, 4});
  gpu.emulated.pause();
  auto given = std::async(std::launch::async, [&] { clip.through(gpu.decoder, &s.slot); });
  EXPECT_TRUE(ends_within(given, 20000)) << "three surfaces are fewer than a session lends";
  EXPECT_EQ(clip.pixels()[0][0], 0xa5) << "nothing was done yet";
  s.slot.hand_out();
  std::vector<std::vector<uint8_t>> seen;
  s.reader->add([&] { seen = clip.pixels(); });
  gpu.emulated.resume();
  given.wait();
  s.reader->mark()->wait();
  media::CpuClipDecoder cpu(default_env());
  Clip same(video.table, video.path, {3, 4, 9, 4});
  EXPECT_EQ(seen, same.through(cpu));
}

// A decoder has only so many surfaces: it goes on when the device is done with the oldest.
TEST(NvdecClipDecoder, ADeviceThatFallsBehindHoldsDecodingUp) {
  const Video video;
  Gpu gpu;
  Slot s(gpu.emulated);
  const std::vector<int64_t> frames = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  Clip clip(video.table, video.path, frames);
  gpu.emulated.pause();
  auto given = std::async(std::launch::async, [&] { clip.through(gpu.decoder, &s.slot); });
  EXPECT_FALSE(ends_within(given, 100)) << "twelve surfaces were lent by a session with four";
  gpu.emulated.resume();
  EXPECT_TRUE(ends_within(given, 20000));
  s.slot.hand_out();
  s.reader->mark()->wait();
  media::CpuClipDecoder cpu(default_env());
  Clip same(video.table, video.path, frames);
  EXPECT_EQ(clip.pixels(), same.through(cpu));
}

// Clips that follow each other in one session, none waited for, and clips that the CPU decodes
// between them: surfaces and staged pixels are not used again too early.
TEST(NvdecClipDecoder, ManyClipsUnderWayKeepTheirPixelsApart) {
  const Video video;
  for (const bool on_gpu : {true, false}) {
    Gpu gpu;
    gpu.device.takes_h264 = on_gpu;
    Slot s(gpu.emulated);
    media::CpuClipDecoder cpu(default_env());
    Rng rng(7, Stream::kClip, 0);
    std::vector<std::unique_ptr<Clip>> ours, theirs;
    for (int c = 0; c < 12; ++c) {
      const std::vector<int64_t> frames = some_frames(rng, video.table.frame_count());
      ours.push_back(std::make_unique<Clip>(video.table, video.path, frames));
      theirs.push_back(std::make_unique<Clip>(video.table, video.path, frames));
      ours.back()->through(gpu.decoder, &s.slot);
    }
    s.slot.hand_out();
    s.reader->mark()->wait();
    for (size_t c = 0; c < ours.size(); ++c)
      EXPECT_EQ(ours[c]->pixels(), theirs[c]->through(cpu)) << "clip " << c << " " << on_gpu;
    EXPECT_EQ(gpu.tally.counts().on_gpu, on_gpu ? 12 : 0);
  }
}

TEST(NvdecClipDecoder, WhatItGaveUpOnIsDoneWhenTheErrorIsThrown) {
  Video video;
  const uint32_t packet = video.table.frame_packet[10];
  for (uint32_t i = 5; i < video.table.size[packet]; ++i)
    video.bytes[size_t(video.table.position[packet]) + i] = 0;
  video.write();
  Gpu gpu;
  Slot s(gpu.emulated);
  Clip bad(video.table, video.path, {0, 1, 9, 10, 11});
  EXPECT_THROW(bad.through(gpu.decoder, &s.slot), Error);
  EXPECT_EQ(gpu.emulated.pending(), 0) << "its pixels may be made again in another order";
}

TEST(NvdecClipDecoder, ASlotThatIsNotTheGpusIsRefused) {
  const Video video;
  Gpu gpu;
  media::HeapBuffer heap;
  Clip clip(video.table, video.path, {1, 2});
  try {
    clip.through(gpu.decoder, &heap);
    FAIL() << "kernels were given host memory";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInternal);
    EXPECT_NE(std::string(e.what()).find(video.path), std::string::npos) << e.what();
  }
}

TEST(NvdecSurface, IsCroppedAtTheLeftAndTopToo) {
  // Hardware frames without hardware: a frames context that only says its format.
  for (const AVPixelFormat format : {AV_PIX_FMT_NV12, AV_PIX_FMT_P016LE, AV_PIX_FMT_YUV444P}) {
    AVHWFramesContext frames = {};
    frames.sw_format = format;
    const media::FramePointer whole = media::make_frame(format, 32, 16);
    AVBufferRef* context = av_buffer_create(
        reinterpret_cast<uint8_t*>(&frames), sizeof(frames), [](void*, uint8_t*) {}, nullptr, 0);
    whole->format = AV_PIX_FMT_CUDA;
    whole->hw_frames_ctx = context;
    whole->crop_left = 6;
    whole->crop_top = 4;
    const media::FramePointer surface = as_surface(*whole);
    EXPECT_EQ(surface->format, format);
    EXPECT_EQ(surface->width, 26);
    EXPECT_EQ(surface->height, 12);
    const int sample = format == AV_PIX_FMT_P016LE ? 2 : 1;
    EXPECT_EQ(surface->data[0], whole->data[0] + 4 * whole->linesize[0] + 6 * sample);
    if (format == AV_PIX_FMT_YUV444P) {
      EXPECT_EQ(surface->data[1], whole->data[1] + 4 * whole->linesize[1] + 6);
      EXPECT_EQ(surface->data[2], whole->data[2] + 4 * whole->linesize[2] + 6);
    } else {
      EXPECT_EQ(surface->data[1], whole->data[1] + 2 * whole->linesize[1] + 3 * 2 * sample);
    }
  }
}

}  // namespace
}  // namespace keiko::cuda
