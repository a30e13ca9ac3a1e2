#include "report/picture.h"

#include <png.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace keiko::report {

Picture::Picture(int w, int h, std::array<uint8_t, 3> fill)
    : width(w), height(h), rgb(size_t(3) * w * h) {
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = fill[i % 3];
}

Picture from_planes(const uint8_t* planes, int64_t plane_stride, int width, int height) {
  Picture picture(width, height);
  for (int64_t i = 0; i < int64_t{width} * height; ++i)
    for (int c = 0; c < 3; ++c) picture.rgb[size_t(3 * i + c)] = planes[c * plane_stride + i];
  return picture;
}

Picture enlarge(const Picture& picture, int factor) {
  if (factor <= 1) return picture;
  Picture out(picture.width * factor, picture.height * factor);
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x)
      std::memcpy(out.at(x, y), picture.at(x / factor, y / factor), 3);
  return out;
}

void paste(Picture& sheet, const Picture& picture, int x, int y) {
  const int from = std::max(0, -x), to = std::min(picture.width, sheet.width - x);
  if (from >= to) return;
  for (int row = std::max(0, -y); row < picture.height && y + row < sheet.height; ++row)
    std::memcpy(sheet.at(x + from, y + row), picture.at(from, row), size_t(3) * (to - from));
}

Picture arrange(const std::vector<Picture>& pictures, int columns, int gap,
                const std::vector<std::array<uint8_t, 3>>& frame_colors) {
  if (pictures.empty()) return Picture(1, 1);
  const int w = pictures[0].width, h = pictures[0].height;
  const int rows = (int(pictures.size()) + columns - 1) / columns;
  Picture sheet(columns * (w + gap) + gap, rows * (h + gap) + gap, {32, 32, 32});
  for (size_t i = 0; i < pictures.size(); ++i) {
    const int x = gap + int(i) % columns * (w + gap), y = gap + int(i) / columns * (h + gap);
    if (i < frame_colors.size() && gap > 1)
      paste(sheet, Picture(w + 2, h + 2, frame_colors[i]), x - 1, y - 1);
    paste(sheet, pictures[i], x, y);
  }
  return sheet;
}

Picture heat_map(const std::vector<double>& shares, int n, int cell) {
  const int pitch = cell + 1;
  Picture sheet(n * pitch + 1, n * pitch + 1, {200, 200, 200});
  for (int row = 0; row < n; ++row)
    for (int column = 0; column < n; ++column) {
      const double share = std::clamp(shares[size_t(row * n + column)], 0.0, 1.0);
      const auto shade = [&](double dark) { return uint8_t(255 - share * (255 - dark)); };
      paste(sheet, Picture(cell, cell, {shade(8), shade(48), shade(107)}), 1 + column * pitch,
            1 + row * pitch);
    }
  return sheet;
}

void write_png(Env* env, const std::string& path, const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = png_uint_32(picture.width);
  image.height = png_uint_32(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  std::string bytes;
  if (!png_image_write_to_memory(&image, nullptr, &size, 0, picture.rgb.data(), 0, nullptr))
    fail(ErrorKind::kInternal, "{}: cannot encode the picture: {}", path, image.message);
  bytes.resize(size);
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.rgb.data(), 0, nullptr))
    fail(ErrorKind::kInternal, "{}: cannot encode the picture: {}", path, image.message);
  bytes.resize(size);
  env->create(path)->append(bytes);
}

}  // namespace keiko::report
