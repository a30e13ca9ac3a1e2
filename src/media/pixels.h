// From a decoded frame to RGB pixels in a batch slot: crop, resize, colour, turn, mirror, in one
// go.
//
// By definition (docs/architecture.md, "Pixels"): the crop is a rectangle in float display pixels;
// resize is separable, antialiased, half-pixel centred; chroma siting, matrix and range are the
// stream's; the result is rounded half up to uint8. The reference computes that in float64; the
// fixed-point way is near it and gives the same bits on every processor.

#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
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
struct Resampling {
  int taps = 0;
  std::vector<int> first;  // one for each output, never descending
  std::vector<double> weights;
  int low = 0, high = 0;  // the inputs used are [low, high)
};

// Antialiased resampling of [start, start + length) of `input` samples to `output` samples. Taps
// stay inside [0, input) and weights sum to 1 (as in PIL and torch's antialias=True); an output
// whose centre lies outside the picture takes what is at the border.
Resampling make_resampling(double start, double length, int input, int output, Filter filter);

// What to make of a frame.
struct PixelGeometry {
  StreamParameters stream;
  CropRect crop;
  int out_width = 0, out_height = 0;
  bool flip = false;  // mirror left and right, after everything else
  Filter filter = Filter::kBilinear;

  friend bool operator==(const PixelGeometry&, const PixelGeometry&) = default;
};

// The definition, computed as it reads, in float64. Not thread-safe.
class ReferencePixels {
 public:
  using Geometry = PixelGeometry;

  // Writes out_height rows of out_width bytes, `row_stride` apart, to each of the three planes.
  // Throws Error(kData) for a pixel format that FFmpeg cannot convert.
  void convert(const AVFrame& frame, const PixelGeometry& geometry, uint8_t* red, uint8_t* green,
               uint8_t* blue, int64_t row_stride);
};

// What the fixed-point way may compute with. The pixels are the same.
enum class InstructionSet { kPlain, kSse2, kAvx2, kAvx512 };

// Whether this build and this processor have it.
bool has_instruction_set(InstructionSet set);
InstructionSet best_instruction_set();

// The fast way: 16-bit integers from the first sample to the last. What it is not made for (RGB
// frames, more than 64 taps an output) the reference does. Keeps its tables while frames and
// geometry stay the same; not thread-safe.
class FixedPointPixels {
 public:
  using Geometry = PixelGeometry;

  explicit FixedPointPixels(InstructionSet set = best_instruction_set());
  ~FixedPointPixels();
  FixedPointPixels(FixedPointPixels&&) noexcept;

  // As ReferencePixels::convert.
  void convert(const AVFrame& frame, const PixelGeometry& geometry, uint8_t* red, uint8_t* green,
               uint8_t* blue, int64_t row_stride);

 private:
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

// By precision: `double` is the reference, `float` what the loader uses.
template <class Real>
using PixelConverter =
    std::conditional_t<std::is_same_v<Real, double>, ReferencePixels, FixedPointPixels>;

// The md5 of a frame's planes, tightly packed, in lower-case hexadecimal: what
// `ffmpeg -f framemd5` prints for raw video.
std::string raw_md5(const AVFrame& frame);

}  // namespace keiko::media
