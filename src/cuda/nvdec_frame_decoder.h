// libavcodec's decoders on a GPU: one session, which takes clip after clip without being opened
// anew.
//
// The decoder is the one that the CPU path uses (media::FrameDecoder), with a device behind it.
// Which device is behind an interface: without one the very same code decodes on the CPU, and so
// can be tested anywhere.

#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "cuda/device.h"
#include "cuda/nvdec_session_key.h"
#include "cuda/nvdec_session_pool.h"
#include "media/frame_decoder.h"

namespace keiko::cuda {

// Where decoders work. Thread-safe after construction.
class NvdecDevice {
 public:
  virtual ~NvdecDevice() = default;
  // libavcodec's name of the decoder to use for a codec; empty: its first choice.
  virtual std::string decoder_for(const std::string& codec) const = 0;
  // The format of the frames that come out; AV_PIX_FMT_NONE: whatever format in memory.
  virtual AVPixelFormat surface_format() const = 0;
  // The stream in whose order surfaces are written; null: they are there when they come out.
  virtual StreamHandle surface_stream() const { return nullptr; }
  // Gives the context its device, before it is opened.
  virtual void attach(AVCodecContext& context) const = 0;
  // What it can decode.
  virtual NvdecCaps caps(const std::string& codec, Chroma chroma, int bit_depth) const = 0;
};

// No device: libavcodec decodes on the CPU. For tests, and to compare with.
class HostDevice : public NvdecDevice {
 public:
  std::string decoder_for(const std::string&) const override { return ""; }
  AVPixelFormat surface_format() const override { return AV_PIX_FMT_NONE; }
  void attach(AVCodecContext&) const override {}
  NvdecCaps caps(const std::string& codec, Chroma chroma, int bit_depth) const override;
};

// Opens a session on the device; the hardware itself is opened by the first packet. The device
// outlives it. `mapped`: surfaces that are kept from the decoder at a time.
// Throws Error(kData) when this FFmpeg cannot open the codec.
std::unique_ptr<NvdecSession> open_nvdec_session(const NvdecDevice& device,
                                                 const media::StreamParameters& stream, int mapped);

}  // namespace keiko::cuda
