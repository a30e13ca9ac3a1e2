#include "data/augment_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "data/clip_rng.h"

namespace keiko::data {
namespace {

// Streams of Stream::kAugment.
enum Part : uint32_t { kJitter = 0, kRandAugment = 1, kErasing = 2 };

constexpr double kMostMagnitude = 10;  // timm's _MAX_LEVEL

void plan_jitter(const ColorJitterOptions& o, Rng rng, AugmentPlan& plan) {
  struct Jitter {
    PictureOp op;
    double strength;
  };
  std::array<Jitter, 4> jitters = {{{PictureOp::kBrightness, o.brightness},
                                    {PictureOp::kContrast, o.contrast},
                                    {PictureOp::kColor, o.saturation},
                                    {PictureOp::kHue, o.hue}}};
  // torchvision draws the order of the four afresh for every picture; here for every clip.
  for (size_t i = jitters.size(); i > 1; --i) std::swap(jitters[i - 1], jitters[rng.below(i)]);
  for (const Jitter& j : jitters) {
    if (j.strength == 0) continue;
    const double base = j.op == PictureOp::kHue ? 0 : 1;
    const double low = base == 0 ? -j.strength : std::max(0.0, 1 - j.strength);
    plan.steps.push_back({j.op, rng.uniform(low, base + j.strength)});
  }
}

// timm's "increasing" functions from magnitude to argument: more magnitude, more change.
double argument_of(PictureOp op, double magnitude, Rng& rng) {
  const double level = magnitude / kMostMagnitude;
  const auto either_sign = [&](double value) { return rng.uniform() > 0.5 ? -value : value; };
  switch (op) {
    case PictureOp::kRotate:
      return either_sign(level * 30);
    case PictureOp::kPosterize:
      return 4 - int(level * 4);
    case PictureOp::kSolarize:
      return 256 - int(level * 256);
    case PictureOp::kSolarizeAdd:
      return int(level * 110);
    case PictureOp::kColor:
    case PictureOp::kContrast:
    case PictureOp::kBrightness:
    case PictureOp::kSharpness:
      return 1 + either_sign(level * 0.9);
    case PictureOp::kShearX:
    case PictureOp::kShearY:
      return either_sign(level * 0.3);
    case PictureOp::kTranslateXRel:
    case PictureOp::kTranslateYRel:
      return either_sign(level * 0.45);
    case PictureOp::kAutoContrast:
    case PictureOp::kEqualize:
    case PictureOp::kInvert:
    case PictureOp::kHue:
      return 0;
  }
  return 0;
}

void plan_rand_augment(const RandAugmentOptions& o, Rng rng, AugmentPlan& plan) {
  plan.bicubic = o.num_ops > 0 && o.interpolation == "bicubic";
  for (int64_t i = 0; i < o.num_ops; ++i) {
    const auto op = PictureOp(rng.below(kRandAugmentOps));
    if (rng.uniform() >= o.probability) continue;
    const double drawn = o.magnitude + o.magnitude_std * rng.normal();
    const double magnitude = std::clamp(drawn, 0.0, kMostMagnitude);
    plan.steps.push_back({op, argument_of(op, magnitude, rng)});
  }
}

// timm's RandomErasing with one box: a hundred tries at an area and an aspect that fit.
void plan_erasing(const RandomErasingOptions& o, int64_t size, Rng rng, AugmentPlan& plan) {
  if (o.probability == 0 || rng.uniform() >= o.probability) return;
  const uint64_t noise_seed = rng.next_u64();
  for (int attempt = 0; attempt < 100; ++attempt) {
    const double area = rng.uniform(o.area[0], o.area[1]) * double(size * size);
    const double ratio = std::exp(rng.uniform(std::log(o.ratio[0]), std::log(o.ratio[1])));
    const auto height = int64_t(std::lround(std::sqrt(area * ratio)));
    const auto width = int64_t(std::lround(std::sqrt(area / ratio)));
    if (width >= size || height >= size) continue;
    const auto y = rng.below(uint64_t(size - height + 1)),
               x = rng.below(uint64_t(size - width + 1));
    plan.erased = {int(x), int(y), int(width), int(height), noise_seed};
    return;
  }
}

}  // namespace

void RandomResizedCropOptions::bind(config::Binder& b) {
  b.key("scale", scale, "[low, high] share of the area; [] is off").range(0.0001, 1);
  b.key("ratio", ratio, "[low, high] width over height").range(0.01, 100);
  if (!scale.empty() && (scale.size() != 2 || scale[0] > scale[1]))
    b.refuse("scale", "must be [low, high] with low <= high");
  if (ratio.size() != 2 || ratio[0] > ratio[1])
    b.refuse("ratio", "must be [low, high] with low <= high");
}

void ColorJitterOptions::bind(config::Binder& b) {
  b.key("brightness", brightness, "factor from 1 - x to 1 + x; 0 is off").range(0, 100);
  b.key("contrast", contrast, "likewise").range(0, 100);
  b.key("saturation", saturation, "likewise").range(0, 100);
  b.key("hue", hue, "share of the colour circle, from -x to x; 0 is off").range(0, 0.5);
}

void RandAugmentOptions::bind(config::Binder& b) {
  b.key("num_ops", num_ops, "operations drawn for a clip; 0 is off").range(0, 64);
  b.key("magnitude", magnitude, "strength of all of them").range(0, kMostMagnitude);
  b.key("magnitude_std", magnitude_std, "standard deviation of each one's strength")
      .range(0, kMostMagnitude);
  b.key("probability", probability, "that an operation which was drawn is done").range(0, 1);
  b.choice("interpolation", interpolation, {"bilinear", "bicubic"},
           "of rotation, shear and translation");
}

void RandomErasingOptions::bind(config::Binder& b) {
  b.key("probability", probability, "of a clip with a box of noise").range(0, 1);
  b.key("area", area, "[low, high] share of the frame").range(0.0001, 1);
  b.key("ratio", ratio, "[low, high] height over width").range(0.01, 100);
  if (area.size() != 2 || area[0] > area[1])
    b.refuse("area", "must be [low, high] with low <= high");
  if (ratio.size() != 2 || ratio[0] > ratio[1])
    b.refuse("ratio", "must be [low, high] with low <= high");
}

void AugmentOptions::bind(config::Binder& b) {
  b.key("multi_scale_crop", multi_scale_crop, "scales of the short side, as VideoMAE; [] is off")
      .range(0.01, 1);
  b.group("random_resized_crop", random_resized_crop);
  b.key("flip", flip, "probability of a mirrored clip").range(0, 1);
  if (!multi_scale_crop.empty() && !random_resized_crop.scale.empty())
    b.refuse("multi_scale_crop", "and random_resized_crop.scale cannot both be on; set one to []");
  b.group("color_jitter", color_jitter);
  b.group("rand_augment", rand_augment);
  b.group("random_erasing", random_erasing);
  b.key("repeats", repeats, "consecutive clips of the stream that are views of the same frames")
      .range(1, 1024);
}

std::string pixel_augmentation(const AugmentOptions& options) {
  const ColorJitterOptions& jitter = options.color_jitter;
  if (jitter.brightness != 0 || jitter.contrast != 0 || jitter.saturation != 0 || jitter.hue != 0)
    return "augment.color_jitter";
  if (options.rand_augment.num_ops > 0) return "augment.rand_augment";
  if (options.random_erasing.probability > 0) return "augment.random_erasing";
  return "";
}

const char* name_of(PictureOp op) {
  static constexpr const char* kNames[] = {
      "AutoContrast", "Equalize",      "Invert",        "Rotate",     "Posterize", "Solarize",
      "SolarizeAdd",  "Color",         "Contrast",      "Brightness", "Sharpness", "ShearX",
      "ShearY",       "TranslateXRel", "TranslateYRel", "Hue"};
  return kNames[size_t(op)];
}

AugmentPlan plan_augment(const AugmentOptions& options, int64_t size, uint64_t seed,
                         int64_t position, uint32_t attempt) {
  const auto rng = [&](Part part) {
    return clip_rng(seed, Stream::kAugment, position, attempt, part);
  };
  AugmentPlan plan;
  plan_jitter(options.color_jitter, rng(kJitter), plan);
  plan_rand_augment(options.rand_augment, rng(kRandAugment), plan);
  plan_erasing(options.random_erasing, size, rng(kErasing), plan);
  return plan;
}

std::string describe(const AugmentPlan& plan) {
  std::string text;
  const auto add = [&](const std::string& one) { text += (text.empty() ? "" : ", ") + one; };
  for (const PictureStep& step : plan.steps) {
    const bool takes_none = step.op <= PictureOp::kInvert;
    add(takes_none ? name_of(step.op) : fmt::format("{} {:.4g}", name_of(step.op), step.argument));
  }
  if (plan.erased)
    add(fmt::format("erased {}x{} at {},{}", plan.erased->width, plan.erased->height,
                    plan.erased->x, plan.erased->y));
  return text;
}

}  // namespace keiko::data
