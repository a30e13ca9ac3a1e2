#include "cuda/nvdec_cuda_device.h"

extern "C" {
#include <libavutil/buffer.h>
#include <libavutil/hwcontext.h>
}

#include <algorithm>

#include "base/error.h"

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

class CudaDevice : public NvdecDevice {
 public:
  CudaDevice(const NvidiaDriver& driver, int gpu, AVBufferRef* device)
      : driver_(driver), gpu_(gpu), device_(device), codecs_(nvdec_codecs_of_ffmpeg()) {}

  std::string decoder_for(const std::string& codec) const override { return codec; }
  AVPixelFormat surface_format() const override { return AV_PIX_FMT_CUDA; }
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
  const std::unique_ptr<AVBufferRef, FreeBuffer> device_;
  const std::vector<std::string> codecs_;
};

}  // namespace

std::vector<std::string> nvdec_codecs_of_ffmpeg() {
  std::vector<std::string> codecs;
  for (const char* name : kCodecs)
    if (can_use_cuda(name)) codecs.push_back(name);
  return codecs;
}

std::unique_ptr<NvdecDevice> open_cuda_device(const NvidiaDriver& driver, int gpu) {
  if (!driver.why_no_gpu().empty())
    fail(ErrorKind::kUsage, "no GPU to decode with: {}", driver.why_no_gpu());
  if (!driver.why_no_nvdec().empty())
    fail(ErrorKind::kUsage, "no video decoder on the GPU: {}", driver.why_no_nvdec());
  if (gpu < 0 || gpu >= driver.gpu_count())
    fail(ErrorKind::kUsage, "there is no GPU {} to decode with; the driver shows {}", gpu,
         driver.gpu_count());
  if (nvdec_codecs_of_ffmpeg().empty())
    fail(ErrorKind::kUsage,
         "this FFmpeg was built without NVDEC; set KEIKO_FFMPEG to one that has it, and build "
         "again");
  // AV_CUDA_USE_PRIMARY_CONTEXT of libavutil/hwcontext_cuda.h, a header that needs CUDA's own.
  constexpr int kUsePrimaryContext = 1;
  AVBufferRef* device = nullptr;
  const int code = av_hwdevice_ctx_create(&device, AV_HWDEVICE_TYPE_CUDA,
                                          std::to_string(gpu).c_str(), nullptr, kUsePrimaryContext);
  if (code < 0)
    fail(ErrorKind::kIo, "FFmpeg cannot open GPU {}: {}; `keiko doctor` says what there is", gpu,
         media::ffmpeg_error(code));
  return std::make_unique<CudaDevice>(driver, gpu, device);
}

}  // namespace keiko::cuda
