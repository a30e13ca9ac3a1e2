#include "data/augment.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/rng.h"
#include "data/photometric.h"

namespace keiko::data {
namespace {

constexpr uint8_t kFill = 128;

// ImageNet's statistics of red, green and blue, in units of 255.
constexpr double kMean[3] = {0.485, 0.456, 0.406}, kSpread[3] = {0.229, 0.224, 0.225};

std::optional<Affine> affine_of(const PictureStep& step, int size) {
  switch (step.op) {
    case PictureOp::kRotate:
      return rotation(step.argument, size, size);
    case PictureOp::kShearX:
      return shear_x(step.argument);
    case PictureOp::kShearY:
      return shear_y(step.argument);
    case PictureOp::kTranslateXRel:
      return translation_x(step.argument * size);
    case PictureOp::kTranslateYRel:
      return translation_y(step.argument * size);
    default:
      return std::nullopt;
  }
}

void apply_photometric(const PictureStep& step, const PictureView& picture, uint8_t* rows) {
  switch (step.op) {
    case PictureOp::kAutoContrast:
      return auto_contrast(picture);
    case PictureOp::kEqualize:
      return equalize(picture);
    case PictureOp::kInvert:
      return invert(picture);
    case PictureOp::kPosterize:
      return posterize(picture, int(step.argument));
    case PictureOp::kSolarize:
      return solarize(picture, int(step.argument));
    case PictureOp::kSolarizeAdd:
      return solarize_add(picture, int(step.argument));
    case PictureOp::kColor:
      return color(picture, step.argument);
    case PictureOp::kContrast:
      return contrast(picture, step.argument);
    case PictureOp::kBrightness:
      return brightness(picture, step.argument);
    case PictureOp::kSharpness:
      return sharpness(picture, step.argument, rows);
    case PictureOp::kHue:
      return hue(picture, step.argument);
    default:
      return;
  }
}

// The quantile function of N(0, 1): Acklam's rational approximation, relative error under 1.2e-9.
double normal_quantile(double p) {
  constexpr double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                          1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                          6.680131188771972e+01, -1.328068155288572e+01};
  constexpr double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                          -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                          3.754408661907416e+00};
  if (p > 0.5) return -normal_quantile(1 - p);
  if (p < 0.02425) {
    const double q = std::sqrt(-2 * std::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  const double q = p - 0.5, r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

// Levels of a channel for 65,536 equally likely values of N(0, 1).
using Noise = std::array<uint8_t, 65536>;
const Noise& noise_of(size_t channel) {
  static const auto tables = [] {
    std::vector<Noise> all(3);
    for (size_t c = 0; c < 3; ++c)
      for (size_t i = 0; i < all[c].size(); ++i) {
        const double value = kMean[c] + kSpread[c] * normal_quantile((double(i) + 0.5) / 65536);
        all[c][i] = uint8_t(std::clamp(std::floor(255 * value + 0.5), 0.0, 255.0));
      }
    return all;
  }();
  return tables[channel];
}

void erase(const ErasedBox& box, uint8_t* clip, int64_t frames, int64_t size) {
  for (int64_t plane = 0; plane < 3 * frames; ++plane) {
    const Noise& noise = noise_of(size_t(plane / frames));
    Rng rng(box.noise_seed, Stream::kAugment, uint64_t(plane));
    for (int y = box.y; y < box.y + box.height; ++y) {
      uint8_t* row = clip + (plane * size + y) * size + box.x;
      int x = 0;
      for (; x + 2 <= box.width; x += 2) {
        const uint32_t bits = rng.next_u32();
        row[x] = noise[bits & 0xffff];
        row[x + 1] = noise[bits >> 16];
      }
      if (x < box.width) row[x] = noise[rng.next_u32() & 0xffff];
    }
  }
}

}  // namespace

void apply_augment(const AugmentPlan& plan, uint8_t* clip, int64_t frames, int64_t size,
                   AugmentScratch& scratch) {
  const int side = int(size);
  scratch.rows.resize(size_t(2 * size));
  scratch.warps.resize(std::max(scratch.warps.size(), plan.steps.size()));
  std::vector<bool> is_warp(plan.steps.size());
  for (size_t i = 0; i < plan.steps.size(); ++i)
    if (const auto map = affine_of(plan.steps[i], side)) {
      is_warp[i] = true;
      scratch.warps[i].prepare(*map, side, side, plan.bicubic);
    }
  // Frame by frame, so that a frame stays in the cache for all steps.
  for (int64_t t = 0; t < frames && !plan.steps.empty(); ++t) {
    PictureView picture{{}, side, side};
    for (int64_t c = 0; c < 3; ++c) picture.plane[c] = clip + (c * frames + t) * size * size;
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      if (!is_warp[i]) {
        apply_photometric(plan.steps[i], picture, scratch.rows.data());
        continue;
      }
      for (uint8_t* plane : picture.plane) scratch.warps[i].apply(plane, kFill);
    }
  }
  if (plan.erased) erase(*plan.erased, clip, frames, size);
}

}  // namespace keiko::data
