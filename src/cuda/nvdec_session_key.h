// What decides whether an open NVDEC session can take another video, and whether NVDEC takes it at
// all.
//
// A session is bound to a codec, a picture size and a sample format when it is opened; everything
// else arrives with the parameter sets of the next video. What the hardware can do is asked of the
// driver (cuvidGetDecoderCaps), never read from a table of GPUs.

#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "media/packet_table.h"

namespace keiko::cuda {

enum class Chroma { kMonochrome, k420, k422, k444 };  // samples of colour beside those of luma

// "4:2:0" and so on.
const char* chroma_name(Chroma chroma);

// Videos with equal keys can follow each other in one session.
struct NvdecSessionKey {
  std::string codec;  // FFmpeg's name: h264, hevc, vp9, av1
  int profile = 0;    // FFmpeg's number
  // Pixels as shown. The coded size follows from it, and libavcodec opens the session anew when
  // either changes.
  int width = 0, height = 0;
  int bit_depth = 0;
  Chroma chroma = Chroma::k420;
  // The packets bring their parameter sets and have start codes: libavcodec cannot be told in-band
  // that framing changes from lengths to start codes without any parameter sets to tell it with.
  bool is_self_contained = false;
  int surfaces = 0;  // pictures of device memory, see surfaces_of

  friend auto operator<=>(const NvdecSessionKey&, const NvdecSessionKey&) = default;
};

// Pictures that a session holds in device memory, an upper bound where the stream does not say:
// those that others may still refer to (by codec and level), those that wait for their turn to be
// shown (reorder depth; H.264 only, elsewhere they are among the former), five that libavcodec
// works with, and `mapped`, which the pixel kernels may read while decoding goes on. At most 32:
// NVDEC's limit.
int surfaces_of(const media::StreamParameters& stream, int mapped);

// `mapped`: surfaces that are kept from the decoder at a time, 1 to 16. Empty when the sample
// format is none that NVDEC knows (why_not_nvdec says so).
std::optional<NvdecSessionKey> nvdec_session_key(const media::StreamParameters& stream, int mapped);

// Device memory that a session takes, bytes: decoded pictures and as many mapped ones, with rows
// and columns rounded up as NVDEC does, and 32 MiB that were seen beside them. An estimate, to
// bound the pool with.
int64_t estimated_bytes(const NvdecSessionKey& key);

// What the driver says about one codec, chroma and bit depth.
struct NvdecCaps {
  bool is_supported = false;
  int engines = 0;  // NVDEC units on the GPU that can; 0: not told
  int min_width = 0, min_height = 0, max_width = 0, max_height = 0;  // pixels
  int64_t max_macroblocks = 0;                                       // of 16 x 16 pixels
};

// Asks the driver. Must be callable from any thread.
using AskNvdecCaps = std::function<NvdecCaps(const std::string& codec, Chroma, int bit_depth)>;

// Empty when NVDEC can decode the stream through libavcodec; otherwise why not, in words that name
// the value seen: "NVDEC of this GPU does not take h264 of 10 bits, 4:2:0". One call of `ask`.
std::string why_not_nvdec(const media::StreamParameters& stream, const AskNvdecCaps& ask);

}  // namespace keiko::cuda
