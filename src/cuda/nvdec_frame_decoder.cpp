#include "cuda/nvdec_frame_decoder.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

#include "base/error.h"

namespace keiko::cuda {
namespace {

class Session : public NvdecSession {
 public:
  Session(const NvdecDevice& device, const media::StreamParameters& stream, int mapped)
      : device_(device) {
    media::DecoderSetup setup;
    setup.decoder = device.decoder_for(stream.codec);
    setup.keeps_session = true;
    setup.prepare = [&](AVCodecContext& context) {
      context.opaque = this;
      context.get_format = &Session::choose_format;
      // Surfaces that are mapped cannot be decoded into.
      context.extra_hw_frames = mapped;
#ifdef AV_HWACCEL_FLAG_UNSAFE_OUTPUT
      // FFmpeg from 7.1 on would copy each surface; how many are kept here is bounded by `mapped`.
      context.hwaccel_flags |= AV_HWACCEL_FLAG_UNSAFE_OUTPUT;
#endif
      device.attach(context);
    };
    decoder_ = std::make_unique<media::FrameDecoder>(
        stream, media::LoopFilter::kExact, media::FrameDecoder::Shows::kEverything, setup);
  }

  media::FrameDecoder& begin(const media::StreamParameters& stream) override {
    decoder_->restart(stream);
    return *decoder_;
  }
  int64_t hardware_opens() const override { return opens_; }
  std::string refusal() const override { return refusal_; }

 private:
  // libavcodec asks when it opens the hardware, and again without what it could not open. It would
  // silently go on in software if it were let.
  static AVPixelFormat choose_format(AVCodecContext* context, const AVPixelFormat* offered) {
    Session& session = *static_cast<Session*>(context->opaque);
    const AVPixelFormat wanted = session.device_.surface_format();
    std::string names;
    for (const AVPixelFormat* f = offered; *f != AV_PIX_FMT_NONE; ++f) {
      const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(*f);
      const bool is_hardware = d != nullptr && (d->flags & AV_PIX_FMT_FLAG_HWACCEL);
      if (wanted == AV_PIX_FMT_NONE ? !is_hardware : *f == wanted) {
        session.attempt_ = context;
        ++session.opens_;
        return *f;
      }
      if (d != nullptr) names += (names.empty() ? "" : " ") + std::string(d->name);
    }
    session.refuse(context, names);
    return AV_PIX_FMT_NONE;
  }

  void refuse(const AVCodecContext* context, const std::string& offered) {
    const char* name = av_get_pix_fmt_name(device_.surface_format());
    // Offered before, and not any more: libavcodec tried it, and it failed.
    refusal_ = attempt_ == context && opens_ > 0
                   ? fmt::format(
                         "the GPU refused to open a {} decoder of {}x{} (no memory, no free "
                         "session, or a stream that it does not take)",
                         context->codec->name, context->coded_width, context->coded_height)
                   : fmt::format("libavcodec's {} decoder offers {} for this stream, not {}",
                                 context->codec->name, offered.empty() ? "nothing" : offered,
                                 name == nullptr ? "a format in memory" : name);
  }

  const NvdecDevice& device_;
  const AVCodecContext* attempt_ = nullptr;
  int64_t opens_ = 0;
  std::string refusal_;
  std::unique_ptr<media::FrameDecoder> decoder_;
};

}  // namespace

NvdecCaps HostDevice::caps(const std::string&, Chroma, int) const {
  return {true, 0, 1, 1, 1 << 14, 1 << 14, int64_t{1} << 20};
}

std::unique_ptr<NvdecSession> open_nvdec_session(const NvdecDevice& device,
                                                 const media::StreamParameters& stream,
                                                 int mapped) {
  return std::make_unique<Session>(device, stream, mapped);
}

}  // namespace keiko::cuda
