#include "cuda/gpu_decoding.h"

#include "cuda/memory.h"
#include "cuda/nvdec_cuda_device.h"
#include "cuda/nvdec_surface_converter.h"
#include "cuda/stream_queue.h"

namespace keiko::cuda {
namespace {

// Lets surfaces come and go.
class NoConverter : public SurfaceConverter {
 public:
  explicit NoConverter(int device) : stream_(device), queue_(stream_) {}
  WorkQueue& queue() override { return queue_; }
  void convert(size_t, const AVFrame&, const media::PixelGeometry&, uint8_t*, uint8_t*, uint8_t*,
               int64_t) override {}
  void copy(uint8_t*, const uint8_t*, size_t) override {}
  uint8_t* stage(size_t bytes) override { return staged_.reserve(bytes); }
  void upload(uint8_t*, const uint8_t*, size_t) override {}

 private:
  Stream stream_;
  StreamQueue queue_;
  media::HeapBuffer staged_;
};

}  // namespace

std::string GpuDecoding::why_not() { return why_no_cuda_device(NvidiaDriver()); }

GpuDecoding::GpuDecoding(Env* env, int gpu)
    : env_(env),
      gpu_(gpu),
      device_(open_cuda_device(driver_, gpu)),
      pool_(
          [this](const NvdecSessionKey&, const media::StreamParameters& stream) {
            return open_nvdec_session(*device_, stream, NvdecClipDecoder::kMapped);
          },
          {}) {}

std::unique_ptr<media::ClipDecoder> GpuDecoding::make_decoder() {
  return std::make_unique<NvdecClipDecoder>(
      env_, *device_, pool_, make_surface_converter(gpu_, device_->surface_stream()), tally_);
}

std::unique_ptr<media::ClipDecoder> GpuDecoding::make_blind_decoder() {
  return std::make_unique<NvdecClipDecoder>(env_, *device_, pool_,
                                            std::make_unique<NoConverter>(gpu_), tally_);
}

std::unique_ptr<media::BatchBuffer> GpuDecoding::make_slot(std::function<StreamHandle()> reader,
                                                           std::function<void()> make_room) const {
  return std::make_unique<DeviceSlot>(
      gpu_,
      std::make_unique<GrowingDeviceBuffer>(
          gpu_, "the frames of a batch (batch_size, loader.prefetch; eval.batch_size)",
          std::move(make_room)),
      std::make_shared<StreamQueue>(gpu_, std::move(reader)));
}

}  // namespace keiko::cuda
