// Clips that NVDEC decodes beside torch, on a GPU; skips loudly without one.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/gpu_decoding.h"
#include "gpu/accelerator.h"
#include "media/clip_decoder.h"
#include "media/packet_table.h"

namespace keiko::train {
namespace {

// FFmpeg is given the context that torch made, and torch reads a slot in the order of its stream.
TEST(DeviceBatches, OnAGpuTorchReadsWhatNvdecDecodedInItsContext) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  const std::string none = gpu::why_no_accelerator();
  if (!none.empty()) GTEST_SKIP() << "no GPU: " << none;
  const std::string why = cuda::GpuDecoding::why_not();
  if (!why.empty()) GTEST_SKIP() << "NO NVDEC: nothing was decoded on a GPU (" << why << ")";
  const auto accelerator = gpu::load_accelerator(0);
  // The context is torch's, and torch's stream has work.
  at::Tensor busy = at::ones({2048, 2048}, at::TensorOptions(accelerator->device()));
  accelerator->synchronize();

  cuda::GpuDecoding decoding(default_env(), 0);
  const auto decoder = decoding.make_decoder();
  const auto slot = decoding.make_slot([&] { return accelerator->stream(); });
  media::CpuClipDecoder cpu(default_env());
  const std::string path = std::string(media) + "/real/asl_again.mkv";
  const media::PacketTable table = media::scan_video(path);
  constexpr int64_t kFrames = 8, kSize = 112, kChannel = kFrames * kSize * kSize;
  for (int64_t batch = 0; batch < 4; ++batch) {
    std::vector<int64_t> frames;
    for (int64_t t = 0; t < kFrames; ++t)
      frames.push_back((batch * 11 + 2 * t) % table.frame_count());
    std::sort(frames.begin(), frames.end());
    media::ClipRequest request;
    request.table = &table;
    request.path = &path;
    request.frames = frames;
    request.crop = {0, 0, double(table.stream.display_width()),
                    double(table.stream.display_height())};
    request.size = kSize;
    request.channel_stride = kChannel;
    at::Tensor wanted = at::empty({3 * kChannel}, at::kByte);
    request.out = wanted.mutable_data_ptr<uint8_t>();
    cpu.decode(request);

    uint8_t* memory = slot->reserve(3 * kChannel);
    request.out = memory;
    request.slot = slot.get();
    decoder->decode(request);
    for (int i = 0; i < 8; ++i) busy = busy.matmul(busy).sigmoid();
    slot->expect();
    slot->hand_out();
    const at::Tensor found =
        at::for_blob(memory, {3 * kChannel})
            .options(at::TensorOptions(at::kByte).device(accelerator->device()))
            .target_device(accelerator->device())
            .make_tensor()
            .clone();
    EXPECT_GE(slot->waited_s(), 0);
    slot->take_back();
    const at::Tensor apart = (found.cpu().to(at::kInt) - wanted.to(at::kInt)).abs().to(at::kDouble);
    EXPECT_LT(apart.mean().item<double>(), 1) << "batch " << batch;
    EXPECT_GE(apart.le(3).to(at::kDouble).mean().item<double>(), 0.999) << "batch " << batch;
  }
  EXPECT_EQ(decoding.clips().on_gpu, 4);
}

}  // namespace
}  // namespace keiko::train
