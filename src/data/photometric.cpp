#include "data/photometric.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace keiko::data {
namespace {

using Table = std::array<uint8_t, 256>;
using Histogram = std::array<int64_t, 256>;

uint8_t clipped(int64_t value) { return uint8_t(std::clamp<int64_t>(value, 0, 255)); }

void apply_table(const Table& table, uint8_t* plane, int64_t n) {
  for (int64_t i = 0; i < n; ++i) plane[i] = table[plane[i]];
}

void apply_table(const Table& table, const PictureView& picture) {
  for (uint8_t* plane : picture.plane) apply_table(table, plane, picture.pixels());
}

template <class Function>
Table table_of(Function function) {
  Table table;
  for (int i = 0; i < 256; ++i) table[size_t(i)] = function(i);
  return table;
}

Histogram histogram_of(const uint8_t* plane, int64_t n) {
  // Four at a time: equal neighbours would wait for each other's count.
  std::array<std::array<uint32_t, 256>, 4> counts{};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t k = 0; k < 4; ++k) ++counts[k][plane[i + int64_t(k)]];
  for (; i < n; ++i) ++counts[0][plane[i]];
  Histogram sum{};
  for (size_t v = 0; v < 256; ++v)
    sum[v] = int64_t{counts[0][v]} + counts[1][v] + counts[2][v] + counts[3][v];
  return sum;
}

// ITU-R BT.601 luma, as Image.convert("L") rounds it.
int luma(int red, int green, int blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

// Image.blend: in single precision, cut off towards 0.
uint8_t blended(int from, int to, float share) {
  const float value = float(from) + share * float(to - from);
  const float low = value > 0 ? value : 0;
  return uint8_t(int(low < 255 ? low : 255));
}

}  // namespace

void auto_contrast(const PictureView& picture) {
  for (uint8_t* plane : picture.plane) {
    const Histogram histogram = histogram_of(plane, picture.pixels());
    int low = 0, high = 255;
    while (low < 255 && histogram[size_t(low)] == 0) ++low;
    while (high > 0 && histogram[size_t(high)] == 0) --high;
    if (high <= low) continue;
    const double scale = 255.0 / (high - low), offset = -low * scale;
    apply_table(table_of([&](int i) { return clipped(int64_t(i * scale + offset)); }), plane,
                picture.pixels());
  }
}

void equalize(const PictureView& picture) {
  for (uint8_t* plane : picture.plane) {
    const Histogram histogram = histogram_of(plane, picture.pixels());
    int last = 255;
    while (last > 0 && histogram[size_t(last)] == 0) --last;
    const int64_t step = (picture.pixels() - histogram[size_t(last)]) / 255;
    if (step == 0) continue;
    int64_t below = step / 2;
    apply_table(table_of([&](int i) {
                  const uint8_t value = clipped(below / step);
                  below += histogram[size_t(i)];
                  return value;
                }),
                plane, picture.pixels());
  }
}

void invert(const PictureView& picture) {
  for (uint8_t* plane : picture.plane)
    for (int64_t i = 0; i < picture.pixels(); ++i) plane[i] = uint8_t(255 - plane[i]);
}

void posterize(const PictureView& picture, int bits) {
  const uint8_t mask = uint8_t(0xff << (8 - std::clamp(bits, 0, 8)));
  for (uint8_t* plane : picture.plane)
    for (int64_t i = 0; i < picture.pixels(); ++i) plane[i] &= mask;
}

void solarize(const PictureView& picture, int threshold) {
  apply_table(table_of([&](int i) { return uint8_t(i < threshold ? i : 255 - i); }), picture);
}

void solarize_add(const PictureView& picture, int add) {
  apply_table(table_of([&](int i) { return uint8_t(i < 128 ? std::min(255, i + add) : i); }),
              picture);
}

void brightness(const PictureView& picture, double factor) {
  apply_table(table_of([&](int i) { return blended(0, i, float(factor)); }), picture);
}

void contrast(const PictureView& picture, double factor) {
  int64_t sum = 0;
  for (int64_t i = 0; i < picture.pixels(); ++i)
    sum += luma(picture.plane[0][i], picture.plane[1][i], picture.plane[2][i]);
  const int mean = int(double(sum) / double(picture.pixels()) + 0.5);
  apply_table(table_of([&](int i) { return blended(mean, i, float(factor)); }), picture);
}

void color(const PictureView& picture, double factor) {
  // The planes do not overlap: said so that the loop is vectorised.
  uint8_t* __restrict red = picture.plane[0];
  uint8_t* __restrict green = picture.plane[1];
  uint8_t* __restrict blue = picture.plane[2];
  const float share = float(factor);
  const int64_t n = picture.pixels();
  for (int64_t i = 0; i < n; ++i) {
    const int grey = luma(red[i], green[i], blue[i]);
    red[i] = blended(grey, red[i], share);
    green[i] = blended(grey, green[i], share);
    blue[i] = blended(grey, blue[i], share);
  }
}

void sharpness(const PictureView& picture, double factor, uint8_t* above) {
  const int w = picture.width, h = picture.height;
  if (w < 3 || h < 3) return;  // all border, which Pillow's filter leaves alone
  const float share = float(factor);
  for (uint8_t* plane : picture.plane) {
    // The row before and this one as they were: the plane is changed as it is read.
    uint8_t *before = above, *here = above + w;
    std::memcpy(before, plane, size_t(w));
    for (int y = 1; y + 1 < h; ++y) {
      uint8_t* row = plane + int64_t{y} * w;
      const uint8_t* after = row + w;
      std::memcpy(here, row, size_t(w));
      for (int x = 1; x + 1 < w; ++x) {
        const int sum = before[x - 1] + before[x] + before[x + 1] + here[x - 1] + 5 * here[x] +
                        here[x + 1] + after[x - 1] + after[x] + after[x + 1];
        // (sum / 13) rounded: sum + 6.5 never is a multiple of 13, so there are no ties. The
        // product is a division by 26, exact for what a sum can be.
        const int smooth = int(uint32_t(2 * sum + 13) * 80660u >> 21);
        row[x] = blended(smooth, here[x], share);
      }
      std::swap(before, here);
    }
  }
}

void hue(const PictureView& picture, double turn) {
  const uint8_t shift = uint8_t(int(turn * 255));
  // What a hue of 0 to 255 says: how far it is in its sixth of the circle, and which of the four
  // levels (most, least, falling, rising) red, green and blue have there.
  struct Sector {
    float rest;
    std::array<uint8_t, 3> level;
  };
  static constexpr std::array<uint8_t, 3> kLevels[6] = {{0, 3, 1}, {2, 0, 1}, {1, 0, 3},
                                                        {1, 2, 0}, {3, 1, 0}, {0, 1, 2}};
  std::array<Sector, 256> sectors;
  for (int h = 0; h < 256; ++h) {
    const double sixth = h * 6.0 / 255.0;
    sectors[size_t(h)] = {float(sixth - int(sixth)), kLevels[int(sixth) % 6]};
  }
  for (int64_t i = 0; i < picture.pixels(); ++i) {
    const int r = picture.plane[0][i], g = picture.plane[1][i], b = picture.plane[2][i];
    const int most = std::max({r, g, b}), least = std::min({r, g, b});
    // Greys have no hue; what follows is Pillow's conversion to HSV and back, in its precision.
    if (most == least) continue;
    const float range = float(most - least);
    const float red = float(most - r) / range, green = float(most - g) / range,
                blue = float(most - b) / range;
    const float sector = r == most   ? blue - green
                         : g == most ? float(2.0 + double(red) - double(blue))
                                     : float(4.0 + double(green) - double(red));
    double circle = sector / 6.0 + 1.0;
    if (circle >= 1) circle -= 1;
    const float angle = float(circle);
    const uint8_t h = uint8_t(clipped(int(angle * 255.0)) + shift);
    const uint8_t s = clipped(int(range / float(most) * 255.0));
    if (s == 0) {
      for (uint8_t* plane : picture.plane) plane[i] = uint8_t(most);
      continue;
    }
    const Sector& to = sectors[h];
    const float strength = float(s / 255.0);
    const double value = most;
    const auto level = [&](double share) { return uint8_t(int(value * share + 0.5)); };
    const uint8_t levels[4] = {uint8_t(most), level(1.0 - strength),
                               level(1.0 - strength * to.rest),
                               level(1.0 - strength * (1.0 - to.rest))};
    for (size_t c = 0; c < 3; ++c) picture.plane[c][i] = levels[to.level[c]];
  }
}

}  // namespace keiko::data
