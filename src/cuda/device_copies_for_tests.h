// What tests and benchmarks of kernels have in host memory, copied to a device and back.

#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "cuda/memory.h"
#include "media/ffmpeg.h"

namespace keiko::cuda {

// Both wait until the copy is done.
template <class T>
DeviceBuffer to_device(const std::vector<T>& values, const Stream& stream) {
  DeviceBuffer buffer(stream.device(), values.size() * sizeof(T), "the input of a test");
  copy_to_device(buffer.data(), values.data(), values.size() * sizeof(T), stream);
  stream.synchronize();
  return buffer;
}

template <class T>
std::vector<T> to_host(const DeviceBuffer& buffer, const Stream& stream) {
  std::vector<T> values(buffer.size() / sizeof(T));
  copy_to_host(values.data(), buffer.data(), values.size() * sizeof(T), stream);
  stream.synchronize();
  return values;
}

// A surface in a device's memory, as a GPU decoder gives it: rows `padding` bytes farther apart
// than they must be.
class SurfaceOnDevice {
 public:
  SurfaceOnDevice(const AVFrame& host, int padding, const Stream& stream)
      : frame_(av_frame_alloc()) {
    av_frame_copy_props(frame_.get(), &host);
    frame_->format = host.format;
    frame_->width = host.width;
    frame_->height = host.height;
    const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(host.format));
    for (int plane = 0; plane < 3 && host.data[plane] != nullptr; ++plane) {
      const int rows = plane > 0 ? AV_CEIL_RSHIFT(host.height, d->log2_chroma_h) : host.height;
      const int row_bytes = host.linesize[plane], stride = row_bytes + padding;
      std::vector<uint8_t> bytes(size_t(stride) * size_t(rows), 0xa5);
      for (int row = 0; row < rows; ++row)
        std::copy_n(host.data[plane] + int64_t(row) * row_bytes, row_bytes,
                    bytes.data() + int64_t(row) * stride);
      planes_.push_back(to_device(bytes, stream));
      frame_->data[plane] = planes_.back().data();
      frame_->linesize[plane] = stride;
    }
  }
  // Its pointers are the device's.
  const AVFrame& frame() const { return *frame_; }

 private:
  media::FramePointer frame_;
  std::vector<DeviceBuffer> planes_;
};

}  // namespace keiko::cuda
