// Rotary position embedding over time, row and column, as V-JEPA 2 has it (Assran et al., "V-JEPA
// 2", 2025; formula: transformers' VJEPA2RopeAttention, fixed by the golden fixtures).
//
// Of a head's d channels each axis turns 2 * ((d / 3) / 2); the rest stay. Positions come from the
// raster token index of a square grid, so the same weights work on any number of frames.

#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace keiko::model {

// What a rotary position embedding multiplies queries and keys with, [B or 1, 1, N, C]: the first C
// channels of every head are turned, the others stay. Undefined tensors: no rotation.
struct Rotation {
  at::Tensor cos, sin;
};

// Channels that each axis turns.
int64_t rope_channels(int64_t head_width);

// Radians that each of those channels turns from a token to the next, float64 [C] on the CPU;
// undefined when nothing is turned. `order`:
// - "rope": component j of an axis has frequency 10000^-((j mod h)/h), h half the axis's channels,
//   yet neighbours make a pair: a slip of the original code that its weights were trained with;
// - "rope_interleaved": component j has frequency 10000^-((j div 2)/h), a true rotation
// (V-JEPA 2.1);
// - "none": no rotation.
at::Tensor rope_frequencies(int64_t head_width, const std::string& order);

// Cosines and sines for tokens `ids` [B or 1, N] (int64, raster order over times x side x side) in
// `dtype`: computed in double and rounded once. `frequencies` are those above, on the device of
// `ids`; undefined: an empty rotation.
Rotation make_rotation(const at::Tensor& ids, const at::Tensor& frequencies, int64_t side,
                       at::ScalarType dtype);

// x [B, heads, N, d]: pairs (2m, 2m+1) turned, out[2m] = x[2m] cos - x[2m+1] sin,
// out[2m+1] = x[2m+1] cos + x[2m] sin, each with its own component's angle. Keeps x's dtype.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation);

}  // namespace keiko::model
