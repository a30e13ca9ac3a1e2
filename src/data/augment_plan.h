// What is done to a clip's finished pixels: colour, RandAugment's operations, an erased box.
//
// A plan is drawn before anything is read and holds for all frames of its clip. It is a function of
// (seed, position, attempt) alone, and can be told in words. The crop and the flip are not part of
// it: they belong to the clip plan, because the decoder's pixels are made with them.

#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/binder.h"

namespace keiko::data {

struct RandomResizedCropOptions {
  std::vector<double> scale;  // [low, high] share of the area; empty: off
  std::vector<double> ratio = {0.75, 1.3333333333333333};  // width over height

  void bind(config::Binder& b);
};

// torchvision's ColorJitter. Each 0: off.
struct ColorJitterOptions {
  double brightness = 0, contrast = 0, saturation = 0;  // factors from 1 - x (at least 0) to 1 + x
  double hue = 0;  // share of the colour circle, from -x to x; 0 to 0.5

  void bind(config::Binder& b);
};

// timm's rand-mM-nN-mstdS-inc1, as VideoMAE fine-tunes with.
struct RandAugmentOptions {
  int64_t num_ops = 0;                     // drawn for a clip, with repeats; 0: off
  double magnitude = 7;                    // 0 to 10
  double magnitude_std = 0.5;              // standard deviation of each operation's own magnitude
  double probability = 0.5;                // that an operation which was drawn is done
  std::string interpolation = "bilinear";  // of rotation, shear and translation; or "bicubic"

  void bind(config::Binder& b);
};

// timm's random erasing in mode "pixel", one box for all frames of a clip.
struct RandomErasingOptions {
  double probability = 0;
  std::vector<double> area = {0.02, 1.0 / 3};    // [low, high] share of the frame
  std::vector<double> ratio = {0.3, 1.0 / 0.3};  // [low, high] height over width

  void bind(config::Binder& b);
};

struct AugmentOptions {
  std::vector<double> multi_scale_crop;  // scales of the short side; empty: off
  RandomResizedCropOptions random_resized_crop;
  double flip = 0;  // probability of a mirrored clip
  ColorJitterOptions color_jitter;
  RandAugmentOptions rand_augment;
  RandomErasingOptions random_erasing;
  int64_t repeats = 1;  // consecutive positions that are views of the same frames

  void bind(config::Binder& b);
};

// The recipe's name of the first augmentation that changes finished pixels, which only the host
// does ("augment.color_jitter"); empty: there is none. Crop and flip are none.
std::string pixel_augmentation(const AugmentOptions& options);

// What can be done to a picture. The first fifteen are RandAugment's, in timm's order.
enum class PictureOp : uint8_t {
  kAutoContrast,
  kEqualize,
  kInvert,
  kRotate,       // by degrees, counter-clockwise
  kPosterize,    // to so many bits
  kSolarize,     // from this value on
  kSolarizeAdd,  // so many levels
  kColor,        // by a factor, like the next three
  kContrast,
  kBrightness,
  kSharpness,
  kShearX,         // pixels a row
  kShearY,         // pixels a column
  kTranslateXRel,  // share of the width
  kTranslateYRel,  // share of the height
  kHue,            // share of the colour circle
};
constexpr int kRandAugmentOps = 15;

// "Rotate", as timm spells it.
const char* name_of(PictureOp op);

struct PictureStep {
  PictureOp op;
  double argument = 0;  // what it means is said at the op; 0 where it takes none

  friend bool operator==(const PictureStep&, const PictureStep&) = default;
};

// A box that is filled with noise: N(0, 1) for each value in units of ImageNet's mean and spread.
struct ErasedBox {
  int x = 0, y = 0, width = 0, height = 0;  // pixels
  uint64_t noise_seed = 0;

  friend bool operator==(const ErasedBox&, const ErasedBox&) = default;
};

struct AugmentPlan {
  std::vector<PictureStep> steps;   // in order
  bool bicubic = false;             // interpolation of the geometric ones
  std::optional<ErasedBox> erased;  // after them

  bool is_empty() const { return steps.empty() && !erased; }
  friend bool operator==(const AugmentPlan&, const AugmentPlan&) = default;
};

// Draws for the clip at `position` whose frames are size x size pixels.
AugmentPlan plan_augment(const AugmentOptions& options, int64_t size, uint64_t seed,
                         int64_t position, uint32_t attempt);

// "Rotate -21.3, Solarize 77, erased 60x41 at 12,100"; "" for an empty plan.
std::string describe(const AugmentPlan& plan);

}  // namespace keiko::data
