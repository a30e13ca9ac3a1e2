#include "cli/bench_decoder.h"

#include <span>
#include <vector>

#include "base/env.h"
#include "base/hash.h"
#include "cuda/memory.h"

namespace keiko::cli {
namespace {

class CpuBenchDecoder : public BenchDecoder {
 public:
  uint8_t* room(size_t bytes) override { return room_.reserve(bytes); }
  media::ClipCost decode(const media::ClipRequest& request) override {
    return decoder_.decode(request);
  }
  void decode_frames(const media::ClipRequest& request) override {
    decoder_.decode_frames(
        *request.table, *request.path, request.frames, [](int64_t, const AVFrame&) {},
        request.loop_filter);
  }
  uint64_t checksum(size_t bytes) override {
    return xxh3(std::span<const uint8_t>(room_.reserve(bytes), bytes));
  }

 private:
  media::CpuClipDecoder decoder_{default_env()};
  media::HeapBuffer room_;
};

class GpuBenchDecoder : public BenchDecoder {
 public:
  explicit GpuBenchDecoder(cuda::GpuDecoding& decoding)
      : decoder_(decoding.make_decoder()),
        blind_(decoding.make_blind_decoder()),
        stream_(decoding.gpu()),
        room_(decoding.gpu(), "the pixels of a clip") {}

  uint8_t* room(size_t bytes) override { return room_.reserve(bytes); }
  media::ClipCost decode(const media::ClipRequest& request) override {
    return decoder_->decode(request);
  }
  void decode_frames(const media::ClipRequest& request) override { blind_->decode(request); }
  uint64_t checksum(size_t bytes) override {
    host_.resize(bytes);
    cuda::copy_to_host(host_.data(), room_.reserve(bytes), bytes, stream_);
    stream_.synchronize();
    return xxh3(std::span<const uint8_t>(host_));
  }

 private:
  std::unique_ptr<media::ClipDecoder> decoder_, blind_;
  cuda::Stream stream_;
  cuda::GrowingDeviceBuffer room_;
  std::vector<uint8_t> host_;
};

}  // namespace

std::unique_ptr<BenchDecoder> make_cpu_bench_decoder() {
  return std::make_unique<CpuBenchDecoder>();
}

std::unique_ptr<BenchDecoder> make_gpu_bench_decoder(cuda::GpuDecoding& decoding) {
  return std::make_unique<GpuBenchDecoder>(decoding);
}

nlohmann::ordered_json gpu_figures(const cuda::GpuDecoding& decoding) {
  const cuda::NvdecTally::Counts clips = decoding.clips();
  const cuda::NvdecSessionPool::Counts sessions = decoding.sessions();
  nlohmann::ordered_json on_cpu = nlohmann::ordered_json::object();
  for (const auto& [reason, count] : clips.on_cpu) on_cpu[reason] = count;
  return {{"name", cuda::device_name(decoding.gpu())},
          {"clips_on_gpu", clips.on_gpu},
          {"clips_on_cpu", on_cpu},
          {"clips_doubted", clips.doubted},
          {"clips_found_bad", clips.found_bad},
          {"sessions_opened", sessions.opened},
          {"sessions_reused", sessions.reused}};
}

}  // namespace keiko::cli
