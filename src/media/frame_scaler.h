// Decoded frames as 8-bit 4:2:0 pictures of another size, as an encoder wants them.
//
// Planes are resized by swscale (bicubic, accurate rounding) where the stream says that chroma
// lies; range and matrix stay what they are, so a decoder that honours the tags sees the same
// colours. Only RGB sources change: they become BT.601, limited range.

#pragma once
#include <memory>

#include "media/ffmpeg.h"
#include "media/packet_table.h"

struct SwsContext;

namespace keiko::media {

// What the pictures are: size in square pixels, not turned, and the colour tags to write.
struct ScaledFormat {
  int width = 0, height = 0;                                                      // even, >= 2
  int color_range = 0, color_primaries = 0, color_transfer = 0, color_space = 0;  // ITU-T H.273
  int chroma_location = 0;  // AVChromaLocation
};

// The format of a stream's frames shrunk to `short_side` pixels; 0, or more than the source has,
// keeps the size. Neither axis is ever enlarged. Odd sizes become the next smaller or larger even
// one, anamorphic pixels square.
ScaledFormat scaled_format(const StreamParameters& stream, int short_side);

// Not thread-safe.
class FrameScaler {
 public:
  FrameScaler(const StreamParameters& stream, const ScaledFormat& format)
      : stream_(stream), format_(format), scaled_(av_frame_alloc()) {}

  // A yuv420p picture of the format's size, valid until the next call or, when nothing had to be
  // changed, as long as `frame`. Throws Error(kData) when FFmpeg cannot convert the pixel format.
  const AVFrame& scale(const AVFrame& frame);

 private:
  struct FreeScaler {
    void operator()(SwsContext* context) const;
  };

  StreamParameters stream_;
  ScaledFormat format_;
  std::unique_ptr<SwsContext, FreeScaler> scaler_;
  FramePointer scaled_;
  int width_ = 0, height_ = 0, format_of_input_ = -1;  // what scaler_ was made for
};

}  // namespace keiko::media
