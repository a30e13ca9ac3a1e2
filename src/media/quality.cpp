#include "media/quality.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace keiko::media {
namespace {

void check_sizes(const Plane& a, const Plane& b) {
  if (a.width != b.width || a.height != b.height)
    fail(ErrorKind::kInternal, "planes of {}x{} and {}x{} cannot be compared", a.width, a.height,
         b.width, b.height);
}

// Over a block of samples: sum of a, sum of b, sum of squares of both, sum of products.
struct BlockSums {
  int a = 0, b = 0, squares = 0, products = 0;
};

BlockSums sums_of_4x4(const Plane& a, const Plane& b, int x, int y) {
  BlockSums s;
  for (int row = 0; row < 4; ++row) {
    const uint8_t* pa = a.data + (y + row) * a.stride + x;
    const uint8_t* pb = b.data + (y + row) * b.stride + x;
    for (int i = 0; i < 4; ++i) {
      const int va = pa[i], vb = pb[i];
      s.a += va;
      s.b += vb;
      s.squares += va * va + vb * vb;
      s.products += va * vb;
    }
  }
  return s;
}

// The similarity of one 8x8 window, from the sums of its four blocks. Constants and the scaling by
// 64 are those of ffmpeg's vf_ssim.c (and x264's pixel.c, where it comes from).
double window_similarity(const BlockSums& p, const BlockSums& q, const BlockSums& r,
                         const BlockSums& t) {
  constexpr int kC1 = int(.01 * .01 * 255 * 255 * 64 + .5);
  constexpr int kC2 = int(.03 * .03 * 255 * 255 * 64 * 63 + .5);
  const int a = p.a + q.a + r.a + t.a, b = p.b + q.b + r.b + t.b;
  const int variances = (p.squares + q.squares + r.squares + t.squares) * 64 - a * a - b * b;
  const int covariance = (p.products + q.products + r.products + t.products) * 64 - a * b;
  return double(2 * a * b + kC1) * double(2 * covariance + kC2) /
         (double(a * a + b * b + kC1) * double(variances + kC2));
}

}  // namespace

double mean_squared_error(const Plane& a, const Plane& b) {
  check_sizes(a, b);
  int64_t sum = 0;
  for (int y = 0; y < a.height; ++y) {
    const uint8_t* pa = a.data + y * a.stride;
    const uint8_t* pb = b.data + y * b.stride;
    int row = 0;  // at most 2^16 samples of 255^2 fit
    for (int x = 0; x < a.width; ++x) {
      const int difference = pa[x] - pb[x];
      row += difference * difference;
      if ((x & 0x3fff) == 0x3fff) {
        sum += row;
        row = 0;
      }
    }
    sum += row;
  }
  return double(sum) / (double(a.width) * a.height);
}

double structural_similarity(const Plane& a, const Plane& b) {
  check_sizes(a, b);
  const int columns = a.width / 4, rows = a.height / 4;
  if (columns < 2 || rows < 2) return mean_squared_error(a, b) == 0 ? 1 : 0;
  std::array<std::vector<BlockSums>, 2> sums{std::vector<BlockSums>(size_t(columns)),
                                             std::vector<BlockSums>(size_t(columns))};
  double total = 0;
  for (int row = 0; row < rows; ++row) {
    std::swap(sums[0], sums[1]);
    for (int c = 0; c < columns; ++c) sums[1][size_t(c)] = sums_of_4x4(a, b, 4 * c, 4 * row);
    if (row == 0) continue;
    for (size_t c = 0; c + 1 < size_t(columns); ++c)
      total += window_similarity(sums[0][c], sums[0][c + 1], sums[1][c], sums[1][c + 1]);
  }
  return total / (double(rows - 1) * (columns - 1));
}

double psnr_of(double mean_squared_error) {
  if (mean_squared_error <= 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(255.0 * 255.0 / mean_squared_error);
}

}  // namespace keiko::media
