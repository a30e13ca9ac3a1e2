#include "cuda/nvdec_surface_converter.h"

#include <array>
#include <exception>
#include <vector>

#include "base/log.h"
#include "cuda/memory.h"
#include "cuda/stream_queue.h"
#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

class DeviceConverter : public SurfaceConverter {
 public:
  DeviceConverter(int device, StreamHandle surface_stream)
      : stream_(device),
        surface_stream_(device, surface_stream),
        queue_(stream_),
        written_(device),
        staged_{Staged(device), Staged(device)} {}
  ~DeviceConverter() override {
    try {
      stream_.synchronize();  // tables and staged pixels are read until then
    } catch (const std::exception& e) {
      spdlog::warn("ending the conversion of frames: {}", e.what());
    }
  }

  WorkQueue& queue() override { return queue_; }
  void convert(size_t view, const AVFrame& surface, const media::PixelGeometry& geometry,
               uint8_t* red, uint8_t* green, uint8_t* blue, int64_t row_stride) override {
    while (pixels_.size() <= view) pixels_.emplace_back();
    // A surface that is mapped is not written yet: that is work of FFmpeg's stream.
    written_.record(surface_stream_);
    stream_.wait(written_);
    pixels_[view].convert(surface, geometry, red, green, blue, row_stride, stream_);
  }
  void copy(uint8_t* to, const uint8_t* from, size_t bytes) override {
    copy_on_device(to, from, bytes, stream_);
  }
  uint8_t* stage(size_t bytes) override {
    current_ = (current_ + 1) % staged_.size();
    staged_[current_].copied.synchronize();  // of the clip before the last: nearly always done
    return staged_[current_].memory.reserve(bytes);
  }
  void upload(uint8_t* to, const uint8_t* from, size_t bytes) override {
    copy_to_device(to, from, bytes, stream_);
    staged_[current_].copied.record(stream_);
  }

 private:
  struct Staged {
    explicit Staged(int device)
        : memory(device, "clips that are decoded on the CPU"), copied(device) {}
    PinnedBuffer memory;
    Event copied;  // out of it
  };

  Stream stream_, surface_stream_;
  StreamQueue queue_;
  Event written_;
  std::vector<SurfacePixels> pixels_;  // one a view: each keeps its tables
  std::array<Staged, 2> staged_;
  size_t current_ = 0;
};

}  // namespace

std::unique_ptr<SurfaceConverter> make_surface_converter(int device, StreamHandle surface_stream) {
  return std::make_unique<DeviceConverter>(device, surface_stream);
}

}  // namespace keiko::cuda
