// From a decoded frame to RGB pixels in a batch slot: crop, resize, colour, turn, mirror, in one
// go.
//
// By definition (docs/architecture.md, "Pixels"): the crop is a rectangle in float display pixels;
// resize is separable, antialiased, half-pixel centred; chroma siting, matrix and range are the
// stream's; the result is rounded half up to uint8. `Real = double` is the reference.

#pragma once
#include <cstdint>
#include <vector>

#include "media/ffmpeg.h"
#include "media/packet_table.h"

namespace keiko::media {

struct CropRect {
  double x = 0, y = 0, width = 0, height = 0;  // display pixels; from the top left corner

  friend bool operator==(const CropRect&, const CropRect&) = default;
};

enum class Filter { kBilinear, kBicubic };  // bicubic: a = -0.5 (Keys)

// One separable filter: output i is the sum of weights[i * taps + k] * input[first[i] + k].
template <class Real>
struct Resampling {
  int taps = 0;
  std::vector<int> first;
  std::vector<Real> weights;
  int low = 0, high = 0;  // the inputs used are [low, high)
};

// Antialiased resampling of [start, start + length) of `input` samples to `output` samples. Taps
// stay inside [0, input) and weights sum to 1 (as in PIL and torch's antialias=True).
template <class Real>
Resampling<Real> make_resampling(double start, double length, int input, int output, Filter filter);

// Turns frames of one geometry into pixels. Keeps its weights between frames; not thread-safe.
template <class Real>
class PixelConverter {
 public:
  struct Geometry {
    StreamParameters stream;
    CropRect crop;
    int out_width = 0, out_height = 0;
    bool flip = false;  // mirror left and right, after everything else
    Filter filter = Filter::kBilinear;

    friend bool operator==(const Geometry&, const Geometry&) = default;
  };

  // Writes out_height rows of out_width bytes, `row_stride` apart, to each of the three planes.
  // Throws Error(kData) for a pixel format that FFmpeg cannot convert.
  void convert(const AVFrame& frame, const Geometry& geometry, uint8_t* red, uint8_t* green,
               uint8_t* blue, int64_t row_stride);

 private:
  struct Axes {
    Resampling<Real> x, y;
  };
  void prepare(const AVFrame& frame, const Geometry& geometry);
  const AVFrame* to_planar(const AVFrame& frame);
  void resize_plane(const AVFrame& frame, int plane, const Axes& axes, std::vector<Real>& out);

  Geometry geometry_;
  int frame_width_ = 0, frame_height_ = 0, format_ = -1;
  int resize_width_ = 0, resize_height_ = 0;  // before turning
  Axes luma_, chroma_;
  std::vector<Real> y_, u_, v_, row_;
  FramePointer planar_;
};

// The md5 of a frame's planes, tightly packed, in lower-case hexadecimal: what
// `ffmpeg -f framemd5` prints for raw video.
std::string raw_md5(const AVFrame& frame);

}  // namespace keiko::media
