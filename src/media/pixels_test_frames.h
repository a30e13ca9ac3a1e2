// Frames for the tests of pixels, and how far two pictures are apart.

#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" {
#include <libavutil/buffer.h>
#include <libavutil/pixdesc.h>
}

#include "base/error.h"
#include "media/pixels.h"

namespace keiko::media {

// A frame whose planes are separate buffers of exactly the bytes that its rows have, so that a
// sanitizer sees every read outside. `shift` bytes are left free before each plane.
inline FramePointer make_frame(AVPixelFormat format, int width, int height, int shift = 0) {
  FramePointer frame(av_frame_alloc());
  frame->format = format;
  frame->width = width;
  frame->height = height;
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(format);
  int planes = 0;
  for (int i = 0; i < d->nb_components; ++i) planes = std::max(planes, d->comp[i].plane + 1);
  for (int p = 0; p < planes; ++p) {
    const bool chroma = d->nb_components >= 3 && (p == 1 || p == 2);
    const int w = chroma ? AV_CEIL_RSHIFT(width, d->log2_chroma_w) : width;
    const int h = chroma ? AV_CEIL_RSHIFT(height, d->log2_chroma_h) : height;
    frame->linesize[p] = w * d->comp[0].step;
    const size_t size = size_t(frame->linesize[p]) * size_t(h) + size_t(shift);
    auto* memory = new uint8_t[size];
    frame->buf[p] = av_buffer_create(
        memory, size, [](void*, uint8_t* data) { delete[] data; }, nullptr, 0);
    frame->data[p] = memory + shift;
  }
  return frame;
}

inline void for_each_sample(AVFrame& frame, auto&& set) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(AVPixelFormat(frame.format));
  for (int p = 0; p < 3 && frame.data[p] != nullptr; ++p) {
    const bool chroma = d->nb_components >= 3 && p > 0;
    const int w = chroma ? AV_CEIL_RSHIFT(frame.width, d->log2_chroma_w) : frame.width;
    const int h = chroma ? AV_CEIL_RSHIFT(frame.height, d->log2_chroma_h) : frame.height;
    for (int y = 0; y < h; ++y)
      for (int x = 0; x < w; ++x) {
        const int value = set(p, x, y);
        uint8_t* row = frame.data[p] + int64_t(y) * frame.linesize[p];
        if (d->comp[0].depth > 8) {
          const uint16_t word = uint16_t(value);
          std::memcpy(row + 2 * x, &word, 2);
        } else {
          row[x] = uint8_t(value);
        }
      }
  }
}

// Every code value, black and white beside each other: worse than any video.
inline void fill_noise(AVFrame& frame, unsigned seed) {
  std::mt19937 random(seed);
  const int depth = av_pix_fmt_desc_get(AVPixelFormat(frame.format))->comp[0].depth;
  for_each_sample(frame, [&](int, int, int) {
    const unsigned r = random();
    return int(r % 8 == 0 ? 0 : r % 8 == 1 ? (1u << depth) - 1 : (r >> 8) & ((1u << depth) - 1));
  });
}

// The whole picture, upright, of a frame that stands for its stream.
inline PixelGeometry whole_picture(const AVFrame& frame, int out_width, int out_height,
                                   int rotation = 0) {
  PixelGeometry g;
  g.stream.width = frame.width;
  g.stream.height = frame.height;
  g.stream.rotation = rotation;
  g.crop = {0, 0, g.stream.display_width(), g.stream.display_height()};
  g.out_width = out_width;
  g.out_height = out_height;
  return g;
}

// Planes red, green, blue, one after another.
template <class Converter>
std::vector<uint8_t> convert_with(Converter&& converter, const AVFrame& frame,
                                  const PixelGeometry& g) {
  const size_t plane = size_t(g.out_width) * size_t(g.out_height);
  std::vector<uint8_t> out(3 * plane);
  converter.convert(frame, g, out.data(), out.data() + plane, out.data() + 2 * plane, g.out_width);
  return out;
}

struct Distance {
  double mean = 0, psnr = 99;
  int largest = 0;
};

inline Distance distance(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  Distance d;
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int difference = std::abs(int(a[i]) - int(b[i]));
    d.mean += difference;
    squares += difference * difference;
    d.largest = std::max(d.largest, difference);
  }
  d.mean /= double(a.size());
  if (squares > 0) d.psnr = 10 * std::log10(255.0 * 255.0 * double(a.size()) / squares);
  return d;
}

inline std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
  for (InstructionSet set : {InstructionSet::kPlain, InstructionSet::kSse2, InstructionSet::kAvx2,
                             InstructionSet::kAvx512})
    if (has_instruction_set(set)) sets.push_back(set);
  return sets;
}

inline std::string describe(const PixelGeometry& g) {
  return fmt::format("crop {},{} {}x{} to {}x{} rotation {} flip {} {}", g.crop.x, g.crop.y,
                     g.crop.width, g.crop.height, g.out_width, g.out_height, g.stream.rotation,
                     g.flip, g.filter == Filter::kBilinear ? "bilinear" : "bicubic");
}

}  // namespace keiko::media
