#include "cuda/surface_pixels.h"

#include <cstring>
#include <vector>

#include "cuda/error.h"
#include "cuda/memory.h"
#include "cuda/surface_kernels.h"

namespace keiko::cuda {

// Every clip has a crop of its own, so tables change often. Several copies of them are in use, or
// the host would wait at each change for the conversions before.
struct SurfacePixels::Tables {
  struct Copy {
    explicit Copy(int device) : host(device, "the tables of the pixel kernel"), last_use(device) {}

    PinnedBuffer host;
    DeviceBuffer device;
    Event last_use;  // the last kernel that reads it
  };
  static constexpr size_t kCopies = 3;

  SurfacePlan plan;
  int columns_read = 0;
  std::vector<std::unique_ptr<Copy>> copies;
  size_t current = 0;
  bool is_on_device = false;  // plan's tables are, in copies[current]

  void upload(const Stream& stream);
};

void SurfacePixels::Tables::upload(const Stream& stream) {
  while (copies.size() < kCopies) copies.push_back(std::make_unique<Copy>(stream.device()));
  current = (current + 1) % kCopies;
  Copy& copy = *copies[current];
  copy.last_use.synchronize();  // kernels of three changes ago: nearly always done
  const size_t size = plan.tables().size();
  uint8_t* host = copy.host.reserve(size);
  if (copy.device.size() < size)
    copy.device = DeviceBuffer(stream.device(), size * 3 / 2, "the tables of the pixel kernel");
  std::memcpy(host, plan.tables().data(), size);
  copy_to_device(copy.device.data(), host, size, stream);
  copy.last_use.record(stream);
  columns_read = plan.columns_read(kSurfaceTileColumns);
  is_on_device = true;
}

SurfacePixels::SurfacePixels() : tables_(std::make_unique<Tables>()) {}
SurfacePixels::~SurfacePixels() = default;
SurfacePixels::SurfacePixels(SurfacePixels&&) noexcept = default;

void SurfacePixels::convert(const AVFrame& frame, const media::PixelGeometry& geometry,
                            uint8_t* red, uint8_t* green, uint8_t* blue, int64_t row_stride,
                            const Stream& stream) {
  Tables& t = *tables_;
  const DeviceScope scope(stream.device());
  if (t.plan.prepare(frame, geometry)) t.is_on_device = false;
  if (!t.is_on_device) t.upload(stream);
  Tables::Copy& copy = *t.copies[t.current];
  stream.wait(copy.last_use);  // another stream may have made the copy
  const SurfaceTask task = t.plan.task(frame, copy.device.data(), red, green, blue, row_stride);
  check(launch_surface_kernel(task, t.plan.has_wide_samples(), t.columns_read, stream.handle()),
        "the pixel kernel");
  copy.last_use.record(stream);
}

}  // namespace keiko::cuda
