// Ways to turn a yuv420p frame into RGB planes, behind one interface, so that a program can time
// them side by side. Each gets what it asks for: its own context made ahead of time, aligned
// buffers, its best documented setting for the picture.

#pragma once
#include <functional>
#include <string>
#include <vector>

#include "media/pixels.h"

namespace keiko::bench {

struct PixelWay {
  std::string name;
  // Converts the frame into three planes of size * size bytes, red, green, blue, one after another.
  std::function<void(const AVFrame& frame, uint8_t* out)> convert;
};

// All ways that this build has, for frames like `frame`. The crop must lie on even whole pixels,
// the picture be yuv420p of 8 bits, upright, with square pixels and chroma sited left: what every
// library can do. The first is Keiko's plain way.
std::vector<PixelWay> pixel_ways(const AVFrame& frame, const media::PixelGeometry& geometry);

// Checks every kernel against the plain one on random input and prints what a call takes.
// Returns the number of kernels that differ.
int bench_kernels(int rounds);

}  // namespace keiko::bench
