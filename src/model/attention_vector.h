// The attention kernels for vectors of any length, included by one source file for each instruction
// set and compiled there with its flags. Nothing of the standard library is called here: an inline
// function of it would be compiled with those flags for the whole program.

#pragma once
#include "model/attention_kernels.h"

namespace keiko::model {
namespace {

template <int Lanes>
struct AttentionFor {
  typedef float Vector __attribute__((vector_size(4 * Lanes), aligned(4)));
  typedef int32_t Integers __attribute__((vector_size(4 * Lanes), aligned(4)));

  static constexpr int kRows = 64;                      // queries of a block
  static constexpr int kTile = 6;                       // rows of C that stay in registers
  static constexpr int kKeys = 192;                     // keys of a block, a multiple of kTile
  static constexpr int kColumns = Lanes == 16 ? 4 : 2;  // vectors of C that stay in registers

  static int64_t padded(int64_t width) { return (width + 15) / 16 * 16; }
  static int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }
  static Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
  static void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
  static Vector splat(float x) { return x - Vector{}; }
  static Vector larger(Vector a, Vector b) { return a > b ? a : b; }

  // 2^x for x <= 0 or a little more; 2^-126 below that, NaN for NaN. Within 2 units of the last
  // place: a polynomial through the Chebyshev nodes of [-1/2, 1/2], of relative error 2.6e-9.
  static Vector exp2(Vector x) {
    const Vector given = x;
    x = larger(splat(-126), x);                // this order keeps a NaN
    const Vector shifter = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vector shifted = x + shifter;
    const Vector f = x - (shifted - shifter);
    Vector p = splat(0x1.444000p-13f);
    p = p * f + splat(0x1.5f48c0p-10f);
    p = p * f + splat(0x1.3b2a1cp-7f);
    p = p * f + splat(0x1.c6aeccp-5f);
    p = p * f + splat(0x1.ebfbe0p-3f);
    p = p * f + splat(0x1.62e430p-1f);
    p = p * f + splat(1.f);
    const Vector power = reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) +
                                                  (reinterpret_cast<Integers>(shifted) << 23));
    return given == given ? power : given;
  }

  // C[i][c] = or += sum over k of a[i * AI + k * AK] * b[k * b_step + c], i < Rows, c < Columns
  // vectors.
  template <int Rows, int Columns, int AI, int AK, bool Add>
  static void tile(int64_t depth, const float* a, const float* b, int64_t b_step, float* c,
                   int64_t c_step) {
    Vector sum[Rows][Columns];
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Columns; ++j) sum[i][j] = Vector{};
    for (int64_t k = 0; k < depth; ++k) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) right[j] = load(b + j * Lanes);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const Vector left = splat(a[i * AI]);
#pragma GCC unroll 8
        for (int j = 0; j < Columns; ++j) sum[i][j] += left * right[j];
      }
      a += AK;
      b += b_step;
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        float* out = c + i * c_step + j * Lanes;
        store(out, Add ? load(out) + sum[i][j] : sum[i][j]);
      }
  }

  template <int Rows, int AI, int AK, bool Add>
  static void columns(int64_t depth, const float* a, const float* b, int64_t b_step, float* c,
                      int64_t c_step, int64_t vectors) {
    int64_t j = 0;
    for (; j + kColumns <= vectors; j += kColumns)
      tile<Rows, kColumns, AI, AK, Add>(depth, a, b + j * Lanes, b_step, c + j * Lanes, c_step);
    if constexpr (kColumns == 4) {
      if (vectors - j >= 2) {
        tile<Rows, 2, AI, AK, Add>(depth, a, b + j * Lanes, b_step, c + j * Lanes, c_step);
        j += 2;
      }
    }
    if (j < vectors)
      tile<Rows, 1, AI, AK, Add>(depth, a, b + j * Lanes, b_step, c + j * Lanes, c_step);
  }

  // A product with `rows` rows, kTile at a time; `a_tile` floats lie between the tiles of a.
  template <int AI, int AK, bool Add>
  static void product(int64_t rows, int64_t depth, const float* a, int64_t a_tile, const float* b,
                      int64_t b_step, float* c, int64_t c_step, int64_t vectors) {
    for (; rows >= kTile; rows -= kTile, a += a_tile, c += kTile * c_step)
      columns<kTile, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
    switch (rows) {
      case 5:
        return columns<5, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
      case 4:
        return columns<4, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
      case 3:
        return columns<3, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
      case 2:
        return columns<2, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
      case 1:
        return columns<1, AI, AK, Add>(depth, a, b, b_step, c, c_step, vectors);
    }
  }

  // Tokens [n, width] -> [n, padded width], zeros behind.
  static void pack_rows(const float* from, int64_t step, int64_t n, int64_t width, float* to) {
    const int64_t wide = padded(width);
    for (int64_t i = 0; i < n; ++i, from += step, to += wide) {
      for (int64_t c = 0; c < width; ++c) to[c] = from[c];
      for (int64_t c = width; c < wide; ++c) to[c] = 0;
    }
  }

  // Tokens [n, width] -> groups of `Group` tokens, each [width][Group], zeros for tokens beyond n.
  template <int Group>
  static void pack_turned(const float* from, int64_t step, int64_t n, int64_t width, float* to) {
    for (int64_t first = 0; first < n; first += Group, from += Group * step, to += Group * width) {
      const int64_t count = n - first < Group ? n - first : Group;
      for (int64_t i = 0; i < Group; ++i)
        for (int64_t c = 0; c < width; ++c) to[c * Group + i] = i < count ? from[i * step + c] : 0;
    }
  }

  // How many vectors hold `rows` queries.
  static int64_t across(int64_t rows) { return (rows + Lanes - 1) / Lanes; }

  static int64_t forward_scratch(int64_t, int64_t keys, int64_t width) {
    const int64_t wide = padded(width);
    return blocks(keys, kTile) * kTile * width + keys * wide + kRows * (wide + width) +
           kKeys * kRows + 4 * kRows;
  }

  static void forward(const AttentionHead& h, float* scratch) {
    const int64_t width = h.width, wide = padded(width);
    float* q_turned = scratch;                 // [width][64]
    float* scores = q_turned + width * kRows;  // [kKeys][64]
    float* most = scores + kKeys * kRows;      // [64] each
    float* sums = most + kRows;
    float* factor = sums + kRows;
    float* out = factor + 2 * kRows;           // [64][wide]
    float* v_rows = out + kRows * wide;        // [keys][wide]
    float* k_turned = v_rows + h.keys * wide;  // [tile][width][6]
    pack_rows(h.v, h.v_step, h.keys, width, v_rows);
    pack_turned<kTile>(h.k, h.k_step, h.keys, width, k_turned);
    const Vector unit = splat(h.scale * 1.44269504088896341f);  // scores to powers of two
    for (int64_t first = 0; first < h.queries; first += kRows) {
      const int64_t rows = h.queries - first < kRows ? h.queries - first : kRows;
      const int64_t vectors = across(rows);
      pack_turned<kRows>(h.q + first * h.q_step, h.q_step, rows, width, q_turned);
      for (int64_t j = 0; j < kRows; ++j) most[j] = -3e38f, sums[j] = 0;
      for (int64_t i = 0; i < rows * wide; ++i) out[i] = 0;
      for (int64_t key = 0; key < h.keys; key += kKeys) {
        const int64_t count = h.keys - key < kKeys ? h.keys - key : kKeys;
        product<1, kTile, false>(count, width, k_turned + key * width, kTile * width, q_turned,
                                 kRows, scores, kRows, vectors);
        for (int64_t j = 0; j < vectors; ++j) {
          float* column = scores + j * Lanes;
          const Vector before = load(most + j * Lanes);
          Vector highest = before;
          for (int64_t i = 0; i < count; ++i)
            highest = larger(highest, load(column + i * kRows) * unit);
          const Vector shrink = exp2(before - highest);
          Vector sum = load(sums + j * Lanes) * shrink;
          for (int64_t i = 0; i < count; ++i) {
            const Vector p = exp2(load(column + i * kRows) * unit - highest);
            store(column + i * kRows, p);
            sum += p;
          }
          store(most + j * Lanes, highest);
          store(sums + j * Lanes, sum);
          store(factor + j * Lanes, shrink);
        }
        if (key > 0)
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t c = 0; c < wide; ++c) out[i * wide + c] *= factor[i];
        product<1, kRows, true>(rows, count, scores, kTile, v_rows + key * wide, wide, out, wide,
                                wide / Lanes);
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* to = h.out + (first + i) * h.out_step;
        for (int64_t c = 0; c < width; ++c) to[c] = out[i * wide + c] / sums[i];
        h.log_sum[first + i] = most[i] + log2_of(sums[i]);
      }
    }
  }

  // Base-2 logarithm of x >= 1; kept apart from the C library's so that no vector code calls it.
  static float log2_of(float x) { return float(__builtin_log2(double(x))); }

  static int64_t backward_scratch(int64_t queries, int64_t keys, int64_t width) {
    const int64_t wide = padded(width), q_blocks = blocks(queries, kRows);
    return 2 * blocks(keys, kTile) * kTile * width + keys * wide + 2 * kKeys * wide +
           q_blocks * kRows * (2 * width + 3 * wide) + 2 * q_blocks * kRows + 2 * kKeys * kRows;
  }

  static void backward(const AttentionHead& h, float* scratch) {
    const int64_t width = h.width, wide = padded(width), q_blocks = blocks(h.queries, kRows);
    const int64_t q_padded = q_blocks * kRows, k_padded = blocks(h.keys, kTile) * kTile;
    float* probabilities = scratch;                    // [kKeys][64]
    float* gradients = probabilities + kKeys * kRows;  // [kKeys][64]
    float* k_sum = gradients + kKeys * kRows;          // [kKeys][wide]
    float* v_sum = k_sum + kKeys * wide;               // [kKeys][wide]
    float* k_rows = v_sum + kKeys * wide;              // [keys][wide]
    float* q_rows = k_rows + h.keys * wide;            // [queries][wide]
    float* out_rows = q_rows + q_padded * wide;        // gradient of out, [queries][wide]
    float* q_sum = out_rows + q_padded * wide;         // [queries][wide]
    float* log_sums = q_sum + q_padded * wide;         // [queries]
    float* dots = log_sums + q_padded;                 // [queries], out * its gradient
    float* q_turned = dots + q_padded;                 // [block][width][64]
    float* out_turned = q_turned + q_padded * width;   // [block][width][64]
    float* k_turned = out_turned + q_padded * width;   // [tile][width][6]
    float* v_turned = k_turned + k_padded * width;     // [tile][width][6]
    pack_rows(h.k, h.k_step, h.keys, width, k_rows);
    pack_rows(h.q, h.q_step, h.queries, width, q_rows);
    pack_rows(h.out_grad, h.out_grad_step, h.queries, width, out_rows);
    pack_turned<kRows>(h.q, h.q_step, h.queries, width, q_turned);
    pack_turned<kRows>(h.out_grad, h.out_grad_step, h.queries, width, out_turned);
    pack_turned<kTile>(h.k, h.k_step, h.keys, width, k_turned);
    pack_turned<kTile>(h.v, h.v_step, h.keys, width, v_turned);
    for (int64_t i = 0; i < h.queries * wide; ++i) q_sum[i] = 0;
    for (int64_t i = 0; i < q_padded; ++i) {
      float dot = 0;
      if (i < h.queries)
        for (int64_t c = 0; c < width; ++c)
          dot += h.out[i * h.out_step + c] * h.out_grad[i * h.out_grad_step + c];
      dots[i] = dot;
      log_sums[i] =
          i < h.queries ? h.log_sum[i] : 3e38f;  // rows beyond: next to nothing, never read
    }
    const Vector unit = splat(h.scale * 1.44269504088896341f), scale = splat(h.scale);
    for (int64_t key = 0; key < h.keys; key += kKeys) {
      const int64_t count = h.keys - key < kKeys ? h.keys - key : kKeys;
      for (int64_t i = 0; i < count * wide; ++i) k_sum[i] = v_sum[i] = 0;
      for (int64_t block = 0; block < q_blocks; ++block) {
        const int64_t first = block * kRows;
        const int64_t rows = h.queries - first < kRows ? h.queries - first : kRows;
        const int64_t vectors = across(rows);
        product<1, kTile, false>(count, width, k_turned + key * width, kTile * width,
                                 q_turned + first * width, kRows, probabilities, kRows, vectors);
        product<1, kTile, false>(count, width, v_turned + key * width, kTile * width,
                                 out_turned + first * width, kRows, gradients, kRows, vectors);
        for (int64_t j = 0; j < vectors; ++j) {
          const Vector log_sum = load(log_sums + first + j * Lanes);
          const Vector dot = load(dots + first + j * Lanes);
          float* p = probabilities + j * Lanes;
          float* g = gradients + j * Lanes;
          for (int64_t i = 0; i < count; ++i, p += kRows, g += kRows) {
            const Vector probability = exp2(load(p) * unit - log_sum);
            store(p, probability);
            store(g, probability * (load(g) - dot) * scale);
          }
        }
        product<kRows, 1, true>(count, rows, probabilities, kTile * kRows, out_rows + first * wide,
                                wide, v_sum, wide, wide / Lanes);
        product<kRows, 1, true>(count, rows, gradients, kTile * kRows, q_rows + first * wide, wide,
                                k_sum, wide, wide / Lanes);
        product<1, kRows, true>(rows, count, gradients, kTile, k_rows + key * wide, wide,
                                q_sum + first * wide, wide, wide / Lanes);
      }
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < width; ++c) {
          h.k_grad[(key + i) * h.k_grad_step + c] = k_sum[i * wide + c];
          h.v_grad[(key + i) * h.v_grad_step + c] = v_sum[i * wide + c];
        }
    }
    for (int64_t i = 0; i < h.queries; ++i)
      for (int64_t c = 0; c < width; ++c) h.q_grad[i * h.q_grad_step + c] = q_sum[i * wide + c];
  }
};

}  // namespace
}  // namespace keiko::model
