// Colour operations on one picture, in place, with Pillow's exact integers.
//
// Each function gives the bytes that Pillow's operation of the same name gives, so that a published
// recipe means the same here. What is measured (a histogram, a mean) is measured on this picture
// alone. Nothing allocates.

#pragma once
#include <cstdint>

namespace keiko::data {

// One picture in three planes of width * height bytes each, rows without gaps. Not owned.
struct PictureView {
  uint8_t* plane[3];  // red, green, blue
  int width = 0, height = 0;

  int64_t pixels() const { return int64_t{width} * height; }
};

// ImageOps.autocontrast: each channel stretched from its darkest and brightest value to 0 and 255.
void auto_contrast(const PictureView& picture);
// ImageOps.equalize: each channel's histogram made flat.
void equalize(const PictureView& picture);
// ImageOps.invert.
void invert(const PictureView& picture);
// ImageOps.posterize: the upper `bits` bits stay; 0 to 8.
void posterize(const PictureView& picture, int bits);
// ImageOps.solarize: values from `threshold` on are inverted; 0 to 256.
void solarize(const PictureView& picture, int threshold);
// AutoAugment's SolarizeAdd: `add` (0 to 255) on values under 128, at most 255.
void solarize_add(const PictureView& picture, int add);

// ImageEnhance: `factor` 1 changes nothing, 0 gives the picture without any of it (black; one grey;
// grey; blurred), and above 1 there is more of it. factor >= 0.
void brightness(const PictureView& picture, double factor);
void contrast(const PictureView& picture, double factor);
void color(const PictureView& picture, double factor);
// `above` is room for 2 * width bytes.
void sharpness(const PictureView& picture, double factor, uint8_t* above);

// torchvision's adjust_hue for pictures of Pillow: `turn` is a share of the circle, -0.5 to 0.5,
// rounded towards 0 to a 255th.
void hue(const PictureView& picture, double turn);

}  // namespace keiko::data
