// Affine maps of one plane: rotation, shear, translation, as Pillow's Image.transform does them.
//
// Where each output value comes from is worked out once for a clip, because all its frames and
// channels move alike. Outputs from outside the picture get a fill.

#pragma once
#include <cstdint>
#include <vector>

namespace keiko::data {

// Takes the centre of an output pixel (x, y) to the input: (a x + b y + c, d x + e y + f), pixels.
struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
};

// Image.rotate: counter-clockwise about the centre.
Affine rotation(double degrees, int width, int height);
// Moves a row (a column) by `shear` times its distance from the top (the left).
Affine shear_x(double shear);
Affine shear_y(double shear);
// Moves the picture to the left (up) by `pixels`.
Affine translation_x(double pixels);
Affine translation_y(double pixels);

// A map made ready for planes of one size. Memory: 12 bytes a pixel and a copy of the plane, kept
// from map to map. Not thread-safe.
class Warp {
 public:
  // `bicubic`: Pillow's bicubic transform filter (a = -1) instead of bilinear. width, height >= 1.
  void prepare(const Affine& map, int width, int height, bool bicubic);
  // Maps a plane of rows without gaps in place. At most one level from Pillow, which computes in
  // doubles; like Pillow it cuts off towards 0. `plain`: without vector instructions, which give
  // the same bytes.
  void apply(uint8_t* plane, uint8_t fill, bool plain = false);

 private:
  struct Source {
    int32_t offset;   // into the padded copy: the pixel up and left of the point
    uint16_t dx, dy;  // from there, in 2048ths
  };
  int width_ = 0, height_ = 0;
  bool bicubic_ = false;
  std::vector<Source> sources_;
  std::vector<int> first_, last_;  // of each row: outputs [first, last) come from inside
  std::vector<uint8_t> padded_;    // the plane with its border repeated
};

}  // namespace keiko::data
