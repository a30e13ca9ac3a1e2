#include "cuda/nvdec_cuda_device.h"

// libavutil's header takes the two types from cuda.h, which only machines with CUDA's toolkit have.
#define CUDA_VERSION 0
using CUcontext = struct CUctx_st*;
using CUstream = struct CUstream_st*;
extern "C" {
#include <libavutil/buffer.h>
#include <libavutil/hwcontext.h>
#include <libavutil/hwcontext_cuda.h>
}

#include <algorithm>

#include "base/error.h"
#include "cuda/stream.h"

namespace keiko::cuda {
namespace {

// libavcodec's own decoders: those of other libraries (libdav1d) know no hardware.
constexpr const char* kCodecs[] = {"h264", "hevc", "vp9", "av1"};

bool can_use_cuda(const char* name) {
  const AVCodec* codec = avcodec_find_decoder_by_name(name);
  for (int i = 0; codec != nullptr; ++i) {
    const AVCodecHWConfig* config = avcodec_get_hw_config(codec, i);
    if (config == nullptr) return false;
    if (config->device_type == AV_HWDEVICE_TYPE_CUDA &&
        (config->methods & AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX))
      return true;
  }
  return false;
}

struct FreeBuffer {
  void operator()(AVBufferRef* buffer) const { av_buffer_unref(&buffer); }
};

using DevicePointer = std::unique_ptr<AVBufferRef, FreeBuffer>;

// A primary context that is held open for FFmpeg, until its device goes.
struct HeldContext {
  const NvidiaDriver& driver;
  int gpu;
};

// FFmpeg's own way to the primary context (av_hwdevice_ctx_create) asks for certain flags, and
// fails where CUDA's runtime or torch has opened it with others. A context that it is given it
// takes as it is.
DevicePointer make_device(const NvidiaDriver& driver, int gpu, const Stream& stream) {
  DevicePointer device(av_hwdevice_ctx_alloc(AV_HWDEVICE_TYPE_CUDA));
  if (device == nullptr) fail(ErrorKind::kIo, "out of memory for FFmpeg's device on GPU {}", gpu);
  auto* context = reinterpret_cast<AVHWDeviceContext*>(device->data);
  auto* cuda = static_cast<AVCUDADeviceContext*>(context->hwctx);
  cuda->cuda_ctx = driver.retain_context(gpu);
  cuda->stream = stream.handle();
  context->user_opaque = new HeldContext{driver, gpu};
  context->free = [](AVHWDeviceContext* freed) {
    const std::unique_ptr<HeldContext> held(static_cast<HeldContext*>(freed->user_opaque));
    held->driver.release_context(held->gpu);
  };
  if (const int code = av_hwdevice_ctx_init(device.get()); code < 0)
    fail(ErrorKind::kIo, "FFmpeg cannot use GPU {}: {}; `keiko doctor` says what there is", gpu,
         media::ffmpeg_error(code));
  return device;
}

class CudaDevice : public NvdecDevice {
 public:
  CudaDevice(const NvidiaDriver& driver, int gpu)
      : driver_(driver),
        gpu_(gpu),
        stream_(gpu),
        device_(make_device(driver, gpu, stream_)),
        codecs_(nvdec_codecs_of_ffmpeg()) {}

  std::string decoder_for(const std::string& codec) const override { return codec; }
  AVPixelFormat surface_format() const override { return AV_PIX_FMT_CUDA; }
  StreamHandle surface_stream() const override { return stream_.handle(); }
  void attach(AVCodecContext& context) const override {
    context.hw_device_ctx = av_buffer_ref(device_.get());
    if (context.hw_device_ctx == nullptr)
      fail(ErrorKind::kIo, "out of memory for a reference to GPU {}", gpu_);
  }
  NvdecCaps caps(const std::string& codec, Chroma chroma, int bit_depth) const override {
    if (std::find(codecs_.begin(), codecs_.end(), codec) == codecs_.end()) return {};
    return driver_.caps(gpu_, codec, chroma, bit_depth);
  }

 private:
  const NvidiaDriver& driver_;
  const int gpu_;
  const Stream stream_;
  const DevicePointer device_;
  const std::vector<std::string> codecs_;
};

}  // namespace

std::vector<std::string> nvdec_codecs_of_ffmpeg() {
  std::vector<std::string> codecs;
  for (const char* name : kCodecs)
    if (can_use_cuda(name)) codecs.push_back(name);
  return codecs;
}

std::string why_no_cuda_device(const NvidiaDriver& driver) {
  if (!driver.why_no_gpu().empty()) return "no GPU to decode with: " + driver.why_no_gpu();
  if (!driver.why_no_nvdec().empty())
    return "no video decoder on the GPU: " + driver.why_no_nvdec();
  if (nvdec_codecs_of_ffmpeg().empty())
    return "this FFmpeg was built without NVDEC; set KEIKO_FFMPEG to one that has it, and build "
           "again";
  // Frames need the pixel kernels, too.
  return why_no_device();
}

std::unique_ptr<NvdecDevice> open_cuda_device(const NvidiaDriver& driver, int gpu) {
  if (const std::string why = why_no_cuda_device(driver); !why.empty())
    fail(ErrorKind::kUsage, "{}", why);
  if (gpu < 0 || gpu >= driver.gpu_count())
    fail(ErrorKind::kUsage, "there is no GPU {} to decode with; the driver shows {}", gpu,
         driver.gpu_count());
  return std::make_unique<CudaDevice>(driver, gpu);
}

}  // namespace keiko::cuda
