// How near one picture is to another: mean squared error, PSNR and SSIM of a plane.
//
// SSIM is computed as ffmpeg's `ssim` filter does (8x8 windows on a grid of 4, integer sums), so
// that figures can be compared with those that people get from the command line.

#pragma once
#include <cstdint>

namespace keiko::media {

// One plane of 8-bit samples. Does not own its bytes.
struct Plane {
  const uint8_t* data = nullptr;
  int64_t stride = 0;  // bytes from row to row
  int width = 0, height = 0;
};

// Both take two planes of the same size and throw Error(kInternal) for other sizes.
double mean_squared_error(const Plane& a, const Plane& b);
// 1 for equal planes. Needs at least 8x8 samples; smaller planes count as 1 when equal, else 0.
double structural_similarity(const Plane& a, const Plane& b);

// Decibels for 8-bit samples; infinity for 0.
double psnr_of(double mean_squared_error);

}  // namespace keiko::media
