// What the room's functions are in a build without CUDA: they say so.

#include <string>

#include "base/error.h"
#include "cuda/memory.h"
#include "cuda/patch_kernels.h"
#include "cuda/ranges.h"
#include "cuda/surface_pixels.h"

namespace keiko::cuda {
namespace {

constexpr const char* kNotBuilt =
    "this Keiko was built without CUDA; install the CUDA toolkit (nvcc), then configure again with "
    "-DKEIKO_CUDA=ON";

[[noreturn]] void refuse(const char* what) {
  fail(ErrorKind::kUsage, "{} needs a GPU, but {}", what, kNotBuilt);
}

}  // namespace

bool is_built() { return false; }
int device_count() { return 0; }
std::string why_no_device() { return kNotBuilt; }
std::string device_name(int) { refuse("the name of a device"); }
DeviceMemory device_memory(int) { refuse("a device's memory"); }
DeviceScope::DeviceScope(int) { refuse("a device"); }
DeviceScope::~DeviceScope() = default;

// Nobody's tools ask for them.
void open_range(const char*) {}
void close_range() {}

// No stream or event can be made, so what would work on one is out of reach, but for lent streams.
Stream::Stream(int) { refuse("a stream"); }
Stream::~Stream() = default;
void Stream::wait(const Event&) const { refuse("a stream"); }
void Stream::synchronize() const { refuse("a stream"); }
Event::Event(int, bool) { refuse("an event"); }
Event::~Event() = default;
void Event::record(const Stream&) { refuse("an event"); }
bool Event::is_reached() const { refuse("an event"); }
void Event::synchronize() const { refuse("an event"); }
double Event::elapsed_ms(const Event&) const { refuse("an event"); }

DeviceBuffer::DeviceBuffer(int, size_t, const char* purpose) { refuse(purpose); }
DeviceBuffer::~DeviceBuffer() = default;
DeviceBuffer::DeviceBuffer(DeviceBuffer&&) noexcept = default;
DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&&) noexcept = default;
uint8_t* GrowingDeviceBuffer::reserve(size_t) { refuse(purpose_); }
PinnedBuffer::~PinnedBuffer() = default;
uint8_t* PinnedBuffer::reserve(size_t) { refuse(purpose_); }
void copy_to_device(void*, const void*, size_t, const Stream&) { refuse("a copy to a device"); }
void copy_to_host(void*, const void*, size_t, const Stream&) { refuse("a copy from a device"); }
void copy_on_device(void*, const void*, size_t, const Stream&) { refuse("a copy on a device"); }

struct SurfacePixels::Tables {};
SurfacePixels::SurfacePixels() { refuse("the pixel kernel"); }
SurfacePixels::~SurfacePixels() = default;
SurfacePixels::SurfacePixels(SurfacePixels&&) noexcept = default;
void SurfacePixels::convert(const AVFrame&, const media::PixelGeometry&, uint8_t*, uint8_t*,
                            uint8_t*, int64_t, const Stream&) {
  refuse("the pixel kernel");
}

void take_patches(const PatchInput&, PatchType, void*, const Stream&) {
  refuse("the kernel that makes patches");
}
void take_targets(const PatchInput&, PatchTarget, PatchType, void*, const Stream&) {
  refuse("the kernel that makes targets");
}
void target_errors(const PatchInput&, PatchTarget, PatchType, const void*, float*, const Stream&) {
  refuse("the kernel that sums errors");
}
void target_errors_backward(const PatchInput&, PatchTarget, PatchType, const void*, const float*,
                            void*, const Stream&) {
  refuse("the kernel that differentiates errors");
}

}  // namespace keiko::cuda
