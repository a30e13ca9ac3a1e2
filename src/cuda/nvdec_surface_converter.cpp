#include "cuda/nvdec_surface_converter.h"

#include <vector>

#include "cuda/memory.h"
#include "cuda/stream.h"
#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

class DeviceConverter : public SurfaceConverter {
 public:
  explicit DeviceConverter(int device)
      : stream_(device), default_stream_(device, nullptr), mapped_(device) {}

  void convert(size_t view, const AVFrame& surface, const media::PixelGeometry& geometry,
               uint8_t* red, uint8_t* green, uint8_t* blue, int64_t row_stride) override {
    while (pixels_.size() <= view) pixels_.emplace_back();
    // FFmpeg maps surfaces in the order of the default stream, for which this one does not wait.
    mapped_.record(default_stream_);
    stream_.wait(mapped_);
    pixels_[view].convert(surface, geometry, red, green, blue, row_stride, stream_);
  }
  void copy(uint8_t* to, const uint8_t* from, size_t bytes) override {
    copy_on_device(to, from, bytes, stream_);
  }
  void upload(uint8_t* to, const uint8_t* from, size_t bytes) override {
    copy_to_device(to, from, bytes, stream_);
    stream_.synchronize();  // `from` may change after the call
  }
  void finish() override { stream_.synchronize(); }

 private:
  Stream stream_, default_stream_;
  Event mapped_;
  std::vector<SurfacePixels> pixels_;  // one a view: each keeps its tables
};

}  // namespace

std::unique_ptr<SurfaceConverter> make_surface_converter(int device) {
  return std::make_unique<DeviceConverter>(device);
}

}  // namespace keiko::cuda
