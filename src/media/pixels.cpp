#include "media/pixels.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

extern "C" {
#include <libavutil/imgutils.h>
#include <libavutil/md5.h>
}

#include "base/error.h"
#include "media/pixels_kernels.h"
#include "media/pixels_plan.h"

namespace keiko::media {
namespace {

// Beyond this the rounding of every product could add up to a quarter of a level.
constexpr int kMostTaps = 64;
// Samples lie within 2^14; what two filters make of them must stay clear of 2^15.
constexpr double kMostGain = 1.8;

// A Resampling in 16 bits, without the taps that are zero everywhere. Weights are in 1 / 2^15, or
// in 1 / 2^14 with doubling = 1 when one of them is too large for that.
struct FixedResampling {
  int taps = 0, doubling = 0;
  int low = 0, high = 0;   // the inputs used are [low, high)
  std::vector<int> first;  // counted from `low`
  std::vector<int16_t> weights;
  double gain = 1;  // the largest sum of absolute weights
};

FixedResampling quantise(const Resampling& r) {
  const int outputs = int(r.first.size());
  double largest = 0;
  for (double w : r.weights) largest = std::max(largest, std::abs(w));
  FixedResampling fixed;
  fixed.doubling = largest * 32768 > 32766 ? 1 : 0;
  const int one = fixed.doubling ? 16384 : 32768;

  // Rounded weights must still sum to one: the tap whose rounding took most gives way.
  std::vector<int> rounded(r.weights.size());
  std::vector<double> owed(static_cast<size_t>(r.taps));
  for (int i = 0; i < outputs; ++i) {
    const double* exact = r.weights.data() + size_t(i) * r.taps;
    int* w = rounded.data() + size_t(i) * r.taps;
    int missing = one, absolute = 0;
    for (int k = 0; k < r.taps; ++k) {
      const double weight = exact[k] * one;
      w[k] = int(weight + 65536.5) - 65536;  // to nearest
      owed[size_t(k)] = weight - w[k];
      missing -= w[k];
    }
    for (; missing != 0; missing -= missing > 0 ? 1 : -1) {
      const int sign = missing > 0 ? 1 : -1;
      int best = -1;
      for (int k = 0; k < r.taps; ++k)
        if (exact[k] != 0 && (best < 0 || owed[size_t(k)] * sign > owed[size_t(best)] * sign))
          best = k;
      w[best] += sign;
      owed[size_t(best)] -= sign;
    }
    for (int k = 0; k < r.taps; ++k) absolute += std::abs(w[k]);
    fixed.gain = std::max(fixed.gain, double(absolute) / one);
  }

  // The shortest window that holds all non-zero weights of every output. Windows never start
  // before the one of the output before: rows are read once, downwards.
  std::vector<int> begin(static_cast<size_t>(outputs));
  for (int i = outputs - 1; i >= 0; --i) {
    const int* w = rounded.data() + size_t(i) * r.taps;
    int from = 0, to = r.taps;
    while (from < to - 1 && w[from] == 0) ++from;
    while (to > from + 1 && w[to - 1] == 0) --to;
    begin[i] = r.first[i] + from;
    const int end = r.first[i] + to;
    if (i + 1 < outputs) begin[i] = std::min(begin[i], begin[i + 1]);
    fixed.taps = std::max(fixed.taps, end - begin[i]);
  }
  fixed.low = *std::min_element(begin.begin(), begin.end());
  fixed.high = 0;
  fixed.first.resize(size_t(outputs));
  fixed.weights.assign(size_t(outputs) * fixed.taps, 0);
  for (int i = 0; i < outputs; ++i) {
    // Near the end the window starts earlier, so that it stays inside the picture.
    const int from = std::min(begin[i], r.high - fixed.taps);
    fixed.low = std::min(fixed.low, from);
    fixed.high = std::max(fixed.high, from + fixed.taps);
    fixed.first[i] = from;
    for (int k = 0; k < fixed.taps; ++k) {
      const int old = from + k - r.first[i];
      if (old >= 0 && old < r.taps)
        fixed.weights[size_t(i) * fixed.taps + k] = int16_t(rounded[size_t(i) * r.taps + old]);
    }
  }
  for (int& from : fixed.first) from -= fixed.low;
  return fixed;
}

FixedResampling quantise(const AxisSpan& span, Filter filter) {
  return quantise(make_resampling(span.start, span.length, span.input, span.output, filter));
}

int16_t fixed(double value) { return int16_t(std::floor(value + 0.5)); }

// See pixels_kernels.h: samples in 1/128 level, results in 1/64, both without 128 levels.
FixedColour quantise(const ColourEquations& c, int depth) {
  const double level = double(1 << (depth - 8));
  FixedColour f;
  f.luma_gain = fixed(c.luma_gain * level * 16384);
  const double add = c.luma_gain * (128 * level - c.luma_offset) - 128;
  f.luma_add = fixed(add * 64 + 32);  // 32: half a level, because kernels round down
  f.r_v = fixed((c.r_v * level - 2) * 16384);
  f.b_u = fixed((c.b_u * level - 2) * 16384);
  f.g_u = fixed(c.g_u * level * 16384);
  f.g_v = fixed(c.g_v * level * 16384);
  return f;
}

// Memory that starts at a cache line, kept as long as it is large enough.
template <class T>
class Scratch {
 public:
  T* take(size_t count) {
    if (memory_.size() < count + 64) memory_.assign(count + 64, T());
    const size_t over = reinterpret_cast<uintptr_t>(memory_.data()) % 64;
    return memory_.data() + (over == 0 ? 0 : (64 - over) / sizeof(T));
  }

 private:
  std::vector<T> memory_;
};

size_t rounded_up(int n) { return size_t((n + kBand - 1) / kBand * kBand); }

const PixelKernels& kernels_of(InstructionSet set) {
  if (set == InstructionSet::kAvx512) return *kAvx512Kernels;
  if (set == InstructionSet::kAvx2) return *kAvx2Kernels;
  if (set == InstructionSet::kSse2) return *kSse2Kernels;
  return kPlainKernels;
}

// Both axes of one or two planes.
struct FixedAxes {
  FixedResampling x, y;

  bool fits() const {
    return x.taps <= kMostTaps && y.taps <= kMostTaps && x.gain * y.gain <= kMostGain;
  }
};

}  // namespace

struct FixedPointPixels::Tables {
  explicit Tables(const PixelKernels& k) : kernels(k) {}

  bool prepare(const AVFrame& frame, const PixelGeometry& geometry);
  void resize_band(const AVFrame& frame, int plane, const FixedAxes& axes, int begin, int rows);

  const PixelKernels& kernels;
  PixelGeometry geometry;
  FramePointer kind;  // fields of the frame that the tables are for; no pixels
  FramePointer copy;
  ConversionPlan plan;
  FixedAxes luma, chroma;
  FixedColour colour;
  bool use_reference = false;

  // The samples of the input rows that the next output row may need, row r at r % ring_rows.
  struct Ring {
    Scratch<int16_t> memory;
    int next = 0;  // the first row that has not been widened
  } rings[3];
  Scratch<int16_t> band_rows, band_columns;
  Scratch<int16_t> values[3];  // the resized band, by columns
  Scratch<uint8_t> bytes[3];
};

bool has_instruction_set(InstructionSet set) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (set == InstructionSet::kAvx512)
    return kAvx512Kernels != nullptr && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (set == InstructionSet::kAvx2)
    return kAvx2Kernels != nullptr && __builtin_cpu_supports("avx2");
#endif
  if (set == InstructionSet::kSse2) return kSse2Kernels != nullptr;
  return set == InstructionSet::kPlain;
}

InstructionSet best_instruction_set() {
  for (InstructionSet set : {InstructionSet::kAvx512, InstructionSet::kAvx2, InstructionSet::kSse2})
    if (has_instruction_set(set)) return set;
  return InstructionSet::kPlain;
}

FixedPointPixels::FixedPointPixels(InstructionSet set) {
  if (!has_instruction_set(set))
    fail(ErrorKind::kUsage, "this processor or build does not have instruction set {}", int(set));
  tables_ = std::make_unique<Tables>(kernels_of(set));
}
FixedPointPixels::~FixedPointPixels() = default;
FixedPointPixels::FixedPointPixels(FixedPointPixels&&) noexcept = default;

// Returns false when the reference must do it.
bool FixedPointPixels::Tables::prepare(const AVFrame& frame, const PixelGeometry& wanted) {
  if (kind != nullptr && same_kind(frame, *kind) && wanted == geometry) return !use_reference;
  geometry = wanted;
  kind.reset(av_frame_alloc());
  kind->width = frame.width;
  kind->height = frame.height;
  kind->format = frame.format;
  kind->chroma_location = frame.chroma_location;
  kind->color_range = frame.color_range;
  kind->colorspace = frame.colorspace;

  plan = plan_conversion(frame, geometry);
  use_reference = plan.kind == ConversionPlan::Kind::kRgb;
  if (use_reference) return false;
  luma.x = quantise(plan.luma_x, geometry.filter);
  luma.y = quantise(plan.luma_y, geometry.filter);
  use_reference = !luma.fits();
  if (plan.kind == ConversionPlan::Kind::kYuv) {
    chroma.x = quantise(plan.chroma_x, geometry.filter);
    chroma.y = quantise(plan.chroma_y, geometry.filter);
    use_reference = use_reference || !chroma.fits();
  }
  colour = quantise(plan.colour, plan.depth);
  return !use_reference;
}

// Output rows [begin, begin + rows) of one plane, by columns, into values[plane].
void FixedPointPixels::Tables::resize_band(const AVFrame& frame, int plane, const FixedAxes& axes,
                                           int begin, int rows) {
  const FixedResampling& x = axes.x;
  const FixedResampling& y = axes.y;
  const int columns = x.high - x.low;
  const size_t stride = rounded_up(columns);
  int ring_rows = 1;
  while (ring_rows < y.taps) ring_rows *= 2;
  Ring& ring = rings[plane];
  int16_t* memory = ring.memory.take(stride * size_t(ring_rows));
  int16_t* band = band_rows.take(stride * kBand);
  if (begin == 0) ring.next = 0;
  for (int i = 0; i < rows; ++i) {
    const int first = y.first[begin + i];
    for (ring.next = std::max(ring.next, first); ring.next < first + y.taps; ++ring.next) {
      const uint8_t* line = frame.data[plane] + int64_t(y.low + ring.next) * frame.linesize[plane];
      int16_t* out = memory + stride * size_t(ring.next & (ring_rows - 1));
      if (plan.depth == 8)
        kernels.widen_bytes(line + x.low, out, columns);
      else
        kernels.widen_words(reinterpret_cast<const uint16_t*>(line) + x.low,
                            std::max(0, 15 - plan.depth), std::max(0, plan.depth - 15), out,
                            columns);
    }
    const int16_t* lines[kMostTaps];
    for (int k = 0; k < y.taps; ++k)
      lines[k] = memory + stride * size_t((first + k) & (ring_rows - 1));
    kernels.blend_rows(lines, y.weights.data() + size_t(begin + i) * y.taps, y.taps, y.doubling,
                       band + stride * size_t(i), columns);
  }
  int16_t* turned = band_columns.take(stride * kBand);
  kernels.turn_band(band, int64_t(stride), columns, turned);
  const int outputs = int(x.first.size());
  kernels.blend_columns(turned, x.first.data(), x.weights.data(), x.taps, x.doubling, outputs, rows,
                        values[plane].take(size_t(outputs) * kBand));
}

void FixedPointPixels::convert(const AVFrame& original, const PixelGeometry& geometry, uint8_t* red,
                               uint8_t* green, uint8_t* blue, int64_t row_stride) {
  Tables& t = *tables_;
  const AVFrame& frame = as_planes(original, t.copy);
  if (!t.prepare(frame, geometry)) {
    ReferencePixels().convert(original, geometry, red, green, blue, row_stride);
    return;
  }
  const Placement place = place_pixels(geometry, row_stride);
  const int width = t.plan.luma_x.output, height = t.plan.luma_y.output;
  const size_t size = size_t(width) * kBand;
  uint8_t* slot[3] = {red, green, blue};
  for (int begin = 0; begin < height; begin += kBand) {
    const int rows = std::min(kBand, height - begin);
    const bool gray = t.plan.kind == ConversionPlan::Kind::kGray;
    t.resize_band(frame, 0, t.luma, begin, rows);
    const int16_t* y = t.values[0].take(size);
    if (gray) {
      t.kernels.gray(y, t.colour, width, t.bytes[0].take(size));
    } else {
      t.resize_band(frame, 1, t.chroma, begin, rows);
      t.resize_band(frame, 2, t.chroma, begin, rows);
      t.kernels.colour(y, t.values[1].take(size), t.values[2].take(size), t.colour, width,
                       t.bytes[0].take(size), t.bytes[1].take(size), t.bytes[2].take(size));
    }
    for (int c = 0; c < 3; ++c)
      t.kernels.place(t.bytes[gray ? 0 : c].take(size), width, rows,
                      slot[c] + place.start + begin * place.down, place.right, place.down);
  }
}

std::string raw_md5(const AVFrame& frame) {
  const AVPixelFormat format = AVPixelFormat(frame.format);
  const int size = av_image_get_buffer_size(format, frame.width, frame.height, 1);
  if (size < 0) fail(ErrorKind::kData, "a frame has no raw form: {}", ffmpeg_error(size));
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  av_image_copy_to_buffer(bytes.data(), size, frame.data, frame.linesize, format, frame.width,
                          frame.height, 1);
  uint8_t digest[16];
  av_md5_sum(digest, bytes.data(), size);
  std::string text;
  for (uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace keiko::media
