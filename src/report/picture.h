// RGB pictures in memory, arranged into sheets and written as PNG: people look before they read.

#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::report {

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;  // rows of red, green, blue

  Picture() = default;
  Picture(int w, int h, std::array<uint8_t, 3> fill = {255, 255, 255});
  uint8_t* at(int x, int y) { return &rgb[size_t(3) * (size_t(y) * width + x)]; }
  const uint8_t* at(int x, int y) const { return &rgb[size_t(3) * (size_t(y) * width + x)]; }
};

// From planes as the batch stores them: red at `planes`, green and blue `plane_stride` bytes on.
Picture from_planes(const uint8_t* planes, int64_t plane_stride, int width, int height);

// Every pixel repeated `factor` times along both axes.
Picture enlarge(const Picture& picture, int factor);

// Puts `picture` into `sheet` with its top left corner at (x, y); what falls outside is cut off.
void paste(Picture& sheet, const Picture& picture, int x, int y);

// Pictures in rows of `columns`, all of the first one's size, `gap` pixels apart, a frame in
// `frame_colors[i]` around picture i when given.
Picture arrange(const std::vector<Picture>& pictures, int columns, int gap,
                const std::vector<std::array<uint8_t, 3>>& frame_colors = {});

// A square table of `n` x `n` shares in [0, 1], row by row, white to dark blue, `cell` pixels each
// with a line of one pixel between them.
Picture heat_map(const std::vector<double>& shares, int n, int cell);

// Writes a PNG. Throws Error(kIo).
void write_png(Env* env, const std::string& path, const Picture& picture);

}  // namespace keiko::report
