#include "cuda/nvdec_driver.h"

#include <dlfcn.h>

#include "base/error.h"

namespace keiko::cuda {
namespace {

// From cuda.h. Entries with _v2 are what its macros make of the plain names.
using Device = int;
using Context = ContextHandle;
constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
constexpr const char* kCudaNames[] = {"cuInit",
                                      "cuDriverGetVersion",
                                      "cuDeviceGetCount",
                                      "cuDeviceGet",
                                      "cuDeviceGetName",
                                      "cuDeviceGetAttribute",
                                      "cuDeviceTotalMem_v2",
                                      "cuDevicePrimaryCtxRetain",
                                      "cuDevicePrimaryCtxRelease_v2",
                                      "cuCtxPushCurrent_v2",
                                      "cuCtxPopCurrent_v2",
                                      "cuMemGetInfo_v2",
                                      "cuGetErrorName"};

// From cuviddec.h of NVIDIA's Video Codec SDK: CUVIDDECODECAPS, cudaVideoCodec,
// cudaVideoChromaFormat.
struct DecodeCaps {
  int codec, chroma;
  unsigned bit_depth_minus_8, reserved1[3];
  unsigned char is_supported, engines;
  unsigned short output_formats;
  unsigned max_width, max_height, max_macroblocks;
  unsigned short min_width, min_height;
  unsigned char has_histogram, counter_bits;
  unsigned short histogram_bins;
  unsigned reserved3[10];
};
static_assert(sizeof(DecodeCaps) == 88);

int codec_number(const std::string& codec) {
  if (codec == "h264") return 4;
  if (codec == "hevc") return 8;
  if (codec == "vp9") return 10;
  if (codec == "av1") return 11;
  return -1;
}

int chroma_number(Chroma chroma) {
  switch (chroma) {
    case Chroma::kMonochrome:
      return 0;
    case Chroma::k420:
      return 1;
    case Chroma::k422:
      return 2;
    default:
      return 3;
  }
}

constexpr char kInContainers[] =
    "in a container, start it with the GPU (--gpus all) and NVIDIA_DRIVER_CAPABILITIES="
    "compute,utility,video";

// What dlopen did not like; it begins with the library's name.
std::string loading_error() {
  const char* text = ::dlerror();
  return text == nullptr ? "a library of NVIDIA's driver cannot be loaded" : text;
}

using Symbols = std::map<std::string, void (*)()>;

template <class... Args>
int call(const Symbols& symbols, const char* name, Args... args) {
  return reinterpret_cast<int (*)(Args...)>(symbols.at(name))(args...);
}

// Calls, and throws Error(kIo) naming the call and CUDA's name of the failure.
template <class... Args>
void must(const Symbols& symbols, const char* name, Args... args) {
  const int code = call(symbols, name, args...);
  if (code == 0) return;
  const char* text = nullptr;
  call(symbols, "cuGetErrorName", code, &text);
  fail(ErrorKind::kIo,
       "NVIDIA's driver: {} failed with {} ({}); see nvidia-smi and the kernel's log", name, code,
       text == nullptr ? "unknown" : text);
}

// The GPU's own context, shared with torch and FFmpeg, current in this thread.
class CurrentContext {
 public:
  CurrentContext(const Symbols& symbols, Device device) : symbols_(symbols), device_(device) {
    Context context = nullptr;
    must(symbols_, "cuDevicePrimaryCtxRetain", &context, device_);
    if (call(symbols_, "cuCtxPushCurrent_v2", context) == 0) return;
    call(symbols_, "cuDevicePrimaryCtxRelease_v2", device_);
    fail(ErrorKind::kIo, "NVIDIA's driver: cannot use the context of GPU {}; see nvidia-smi",
         device_);
  }
  ~CurrentContext() {
    Context context = nullptr;
    call(symbols_, "cuCtxPopCurrent_v2", &context);
    call(symbols_, "cuDevicePrimaryCtxRelease_v2", device_);
  }
  CurrentContext(const CurrentContext&) = delete;

 private:
  const Symbols& symbols_;
  Device device_;
};

}  // namespace

NvidiaDriver::NvidiaDriver() {
  void* cuda = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (cuda == nullptr) {
    why_no_gpu_ = fmt::format("{}: install NVIDIA's driver; {}", loading_error(), kInContainers);
    why_no_nvdec_ = "no GPU, see above";
    return;
  }
  for (const char* name : kCudaNames) symbols_[name] = find(cuda, name, why_no_gpu_);
  if (why_no_gpu_.empty()) {
    call(symbols_, "cuDriverGetVersion", &cuda_version_);
    const int code = call(symbols_, "cuInit", 0u);
    if (code == 0) call(symbols_, "cuDeviceGetCount", &gpu_count_);
    const char* text = nullptr;
    if (code != 0) call(symbols_, "cuGetErrorName", code, &text);
    if (code != 0)
      why_no_gpu_ = fmt::format("the driver does not start: {} ({}); see nvidia-smi", code,
                                text == nullptr ? "unknown" : text);
    else if (gpu_count_ == 0)
      why_no_gpu_ = "the driver shows no GPU: look at CUDA_VISIBLE_DEVICES and nvidia-smi";
  }
  if (!why_no_gpu_.empty()) {
    why_no_nvdec_ = "no GPU, see above";
    return;
  }
  void* cuvid = ::dlopen("libnvcuvid.so.1", RTLD_NOW | RTLD_LOCAL);
  if (cuvid == nullptr)
    why_no_nvdec_ = fmt::format(
        "{}: videos are decoded on the CPU; it comes with NVIDIA's driver (Debian: libnvcuvid1); "
        "{}",
        loading_error(), kInContainers);
  else
    symbols_["cuvidGetDecoderCaps"] = find(cuvid, "cuvidGetDecoderCaps", why_no_nvdec_);
}

NvidiaDriver::Symbol NvidiaDriver::find(void* library, const char* name, std::string& why) const {
  void* symbol = ::dlsym(library, name);
  if (symbol == nullptr)
    why = fmt::format("the driver has no {}: it is older than Keiko needs; update it", name);
  return reinterpret_cast<Symbol>(symbol);
}

Gpu NvidiaDriver::gpu(int index) const {
  if (index < 0 || index >= gpu_count_)
    fail(ErrorKind::kUsage, "there is no GPU {}; the driver shows {}", index, gpu_count_);
  Gpu gpu;
  Device device = 0;
  must(symbols_, "cuDeviceGet", &device, index);
  char name[256] = {};
  must(symbols_, "cuDeviceGetName", name, int(sizeof(name)), device);
  gpu.name = name;
  must(symbols_, "cuDeviceGetAttribute", &gpu.capability_major, kMajor, device);
  must(symbols_, "cuDeviceGetAttribute", &gpu.capability_minor, kMinor, device);
  size_t free = 0, total = 0;
  must(symbols_, "cuDeviceTotalMem_v2", &total, device);
  gpu.total_bytes = int64_t(total);
  const CurrentContext current(symbols_, device);
  must(symbols_, "cuMemGetInfo_v2", &free, &total);
  gpu.free_bytes = int64_t(free);
  return gpu;
}

NvdecCaps NvidiaDriver::caps(int index, const std::string& codec, Chroma chroma,
                             int bit_depth) const {
  if (!why_no_nvdec_.empty() || index < 0 || index >= gpu_count_ || codec_number(codec) < 0 ||
      bit_depth < 8)
    return {};
  const std::lock_guard lock(mutex_);
  const auto key = std::tuple(index, codec, chroma, bit_depth);
  if (const auto known = caps_.find(key); known != caps_.end()) return known->second;
  Device device = 0;
  must(symbols_, "cuDeviceGet", &device, index);
  const CurrentContext current(symbols_, device);
  DecodeCaps asked = {};
  asked.codec = codec_number(codec);
  asked.chroma = chroma_number(chroma);
  asked.bit_depth_minus_8 = unsigned(bit_depth - 8);
  must(symbols_, "cuvidGetDecoderCaps", &asked);
  const NvdecCaps caps{asked.is_supported != 0, asked.engines,        asked.min_width,
                       asked.min_height,        int(asked.max_width), int(asked.max_height),
                       asked.max_macroblocks};
  caps_.emplace(key, caps);
  return caps;
}

ContextHandle NvidiaDriver::retain_context(int index) const {
  Device device = 0;
  must(symbols_, "cuDeviceGet", &device, index);
  Context context = nullptr;
  must(symbols_, "cuDevicePrimaryCtxRetain", &context, device);
  return context;
}

void NvidiaDriver::release_context(int index) const {
  Device device = 0;
  if (call(symbols_, "cuDeviceGet", &device, index) == 0)
    call(symbols_, "cuDevicePrimaryCtxRelease_v2", device);
}

}  // namespace keiko::cuda
