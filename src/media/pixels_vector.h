// The kernels written once for registers of any width. Each file that includes this is compiled
// for one instruction set and gives `V`: the register type and the operations below.
//
// Everything is in an unnamed namespace and no other header's inline code is used: the linker must
// never take a function compiled here for one that runs on every processor.

#pragma once
#include "media/pixels_kernels.h"

namespace keiko::media {
namespace {

// Calls at(i) for every i where a register of kLanes starts; the last ones may overlap. False when
// n is too small for one register.
template <int kLanes>
inline bool cover(int n, auto at) {
  if (n < kLanes) return false;
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) at(i + j * kLanes);
  for (; i + kLanes <= n; i += kLanes) at(i);
  if (i < n) at(n - kLanes);
  return true;
}

template <class V>
void widen_bytes(const uint8_t* in, int16_t* out, int n) {
  const auto half = V::splat(0x4000);
  const bool covered = cover<V::kLanes>(
      n, [=](int i) { V::store(out + i, V::sub(V::shift_left(V::load_bytes(in + i), 7), half)); });
  if (covered) return;
  for (int i = 0; i < n; ++i) out[i] = int16_t(in[i] * 128 - 0x4000);
}

template <class V>
void widen_words(const uint16_t* in, int left, int right, int16_t* out, int n) {
  const auto half = V::splat(0x4000);
  const bool covered = cover<V::kLanes>(n, [=](int i) {
    const auto x = V::load(reinterpret_cast<const int16_t*>(in + i));
    V::store(out + i, V::sub(V::shift_right_unsigned(V::shift_left(x, left), right), half));
  });
  if (covered) return;
  for (int i = 0; i < n; ++i) out[i] = int16_t((uint16_t(in[i] << left) >> right) - 0x4000);
}

// kTaps = 0: any number. kCount registers of columns at a time.
template <class V, int kTaps, int kCount>
inline void blend_rows_at(const int16_t* const* rows, const int16_t* weights, int taps,
                          int doubling, int16_t* out, int x) {
  typename V::Register sum[kCount];
  const int count = kTaps ? kTaps : taps;
  for (int j = 0; j < kCount; ++j)
    sum[j] = V::round_multiply(V::load(rows[0] + x + j * V::kLanes), V::splat(weights[0]));
  for (int k = 1; k < count; ++k) {
    const auto weight = V::splat(weights[k]);
    const int16_t* row = rows[k] + x;
    for (int j = 0; j < kCount; ++j)
      sum[j] = V::add(sum[j], V::round_multiply(V::load(row + j * V::kLanes), weight));
  }
  for (int j = 0; j < kCount; ++j)
    V::store(out + x + j * V::kLanes, V::shift_left(sum[j], doubling));
}

template <class V, int kTaps>
void blend_rows_of(const int16_t* const* rows, const int16_t* weights, int taps, int doubling,
                   int16_t* out, int n) {
  constexpr int kCount = 4;
  int x = 0;
  for (; x + (kCount - 1) * V::kLanes < n; x += kCount * V::kLanes)
    blend_rows_at<V, kTaps, kCount>(rows, weights, taps, doubling, out, x);
  for (; x < n; x += V::kLanes) blend_rows_at<V, kTaps, 1>(rows, weights, taps, doubling, out, x);
}

template <class V>
void blend_rows(const int16_t* const* rows, const int16_t* weights, int taps, int doubling,
                int16_t* out, int n) {
  switch (taps) {
    case 1:
      return blend_rows_of<V, 1>(rows, weights, taps, doubling, out, n);
    case 2:
      return blend_rows_of<V, 2>(rows, weights, taps, doubling, out, n);
    case 3:
      return blend_rows_of<V, 3>(rows, weights, taps, doubling, out, n);
    case 4:
      return blend_rows_of<V, 4>(rows, weights, taps, doubling, out, n);
    case 5:
      return blend_rows_of<V, 5>(rows, weights, taps, doubling, out, n);
    case 6:
      return blend_rows_of<V, 6>(rows, weights, taps, doubling, out, n);
    default:
      return blend_rows_of<V, 0>(rows, weights, taps, doubling, out, n);
  }
}

// Eight rows of eight words, in every 128-bit lane: interleaving row i with row i + 4 three times
// turns (row, column) into (column, row).
template <class V>
void turn_band(const int16_t* in, int64_t stride, int n, int16_t* out) {
  for (int group = 0; group < kBand; group += V::kLanes)
    for (int x = 0; x < n; x += 8) {
      typename V::Register a[8], b[8];
      for (int i = 0; i < 8; ++i) a[i] = V::load_lanes(in + (group + i) * stride + x, 8 * stride);
      for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 4; ++i) {
          b[2 * i] = V::interleave_low(a[i], a[i + 4]);
          b[2 * i + 1] = V::interleave_high(a[i], a[i + 4]);
        }
        for (int i = 0; i < 8; ++i) a[i] = b[i];
      }
      for (int i = 0; i < 8; ++i) V::store(out + (x + i) * kBand + group, a[i]);
    }
}

template <class V, int kTaps, int kCount>
void blend_columns_of(const int16_t* in, const int* first, const int16_t* weights, int taps,
                      int doubling, int n, int16_t* out) {
  const int count = kTaps ? kTaps : taps;
  for (int i = 0; i < n; ++i) {
    typename V::Register sum[kCount];
    const int16_t* column = in + first[i] * kBand;
    const int16_t* w = weights + i * count;
    for (int j = 0; j < kCount; ++j)
      sum[j] = V::round_multiply(V::load(column + j * V::kLanes), V::splat(w[0]));
    for (int k = 1; k < count; ++k) {
      const auto weight = V::splat(w[k]);
      for (int j = 0; j < kCount; ++j)
        sum[j] =
            V::add(sum[j], V::round_multiply(V::load(column + k * kBand + j * V::kLanes), weight));
    }
    for (int j = 0; j < kCount; ++j)
      V::store(out + i * kBand + j * V::kLanes, V::shift_left(sum[j], doubling));
  }
}

template <class V, int kCount>
void blend_columns_by_taps(const int16_t* in, const int* first, const int16_t* weights, int taps,
                           int doubling, int n, int16_t* out) {
  switch (taps) {
    case 1:
      return blend_columns_of<V, 1, kCount>(in, first, weights, taps, doubling, n, out);
    case 2:
      return blend_columns_of<V, 2, kCount>(in, first, weights, taps, doubling, n, out);
    case 3:
      return blend_columns_of<V, 3, kCount>(in, first, weights, taps, doubling, n, out);
    case 4:
      return blend_columns_of<V, 4, kCount>(in, first, weights, taps, doubling, n, out);
    case 5:
      return blend_columns_of<V, 5, kCount>(in, first, weights, taps, doubling, n, out);
    case 6:
      return blend_columns_of<V, 6, kCount>(in, first, weights, taps, doubling, n, out);
    default:
      return blend_columns_of<V, 0, kCount>(in, first, weights, taps, doubling, n, out);
  }
}

template <class V>
void blend_columns(const int16_t* in, const int* first, const int16_t* weights, int taps,
                   int doubling, int n, int rows, int16_t* out) {
  // The last band of a picture is often half empty.
  if (rows <= V::kLanes)
    blend_columns_by_taps<V, 1>(in, first, weights, taps, doubling, n, out);
  else
    blend_columns_by_taps<V, kBand / V::kLanes>(in, first, weights, taps, doubling, n, out);
}

template <class V>
void colour(const int16_t* y, const int16_t* u, const int16_t* v, const FixedColour& c, int n,
            uint8_t* red, uint8_t* green, uint8_t* blue) {
  constexpr int kCount = kBand / V::kLanes;
  const auto luma_gain = V::splat(c.luma_gain), luma_add = V::splat(c.luma_add);
  const auto r_v = V::splat(c.r_v), b_u = V::splat(c.b_u);
  const auto g_u = V::splat(c.g_u), g_v = V::splat(c.g_v);
  for (int at = 0; at < n * kBand; at += kBand) {
    typename V::Register r[kCount], g[kCount], b[kCount];
    for (int j = 0; j < kCount; ++j) {
      const auto x = V::load(y + at + j * V::kLanes);
      const auto cb = V::load(u + at + j * V::kLanes), cr = V::load(v + at + j * V::kLanes);
      const auto luma = V::add(V::round_multiply(x, luma_gain), luma_add);
      r[j] = V::add_saturating(luma, V::add(cr, V::round_multiply(cr, r_v)));
      g[j] =
          V::add_saturating(luma, V::add(V::round_multiply(cb, g_u), V::round_multiply(cr, g_v)));
      b[j] = V::add_saturating(luma, V::add(cb, V::round_multiply(cb, b_u)));
    }
    V::store_levels(red + at, r);
    V::store_levels(green + at, g);
    V::store_levels(blue + at, b);
  }
}

template <class V>
void gray(const int16_t* y, const FixedColour& c, int n, uint8_t* out) {
  constexpr int kCount = kBand / V::kLanes;
  const auto luma_gain = V::splat(c.luma_gain), luma_add = V::splat(c.luma_add);
  for (int at = 0; at < n * kBand; at += kBand) {
    typename V::Register level[kCount];
    for (int j = 0; j < kCount; ++j)
      level[j] = V::add(V::round_multiply(V::load(y + at + j * V::kLanes), luma_gain), luma_add);
    V::store_levels(out + at, level);
  }
}

// 16 columns of bytes, `step` apart in memory (kBand or -kBand), to rows of 16 bytes. As in
// turn_band, with bytes: four rounds of interleaving i with i + 8.
template <class V>
inline void place_block(const uint8_t* in, int step, int rows, uint8_t* out, int64_t down) {
  for (int group = 0; group < rows; group += 16 * V::kLaneCount) {
    typename V::Register a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = V::load_raw(in + i * step + group);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = V::interleave_bytes_low(a[i], a[i + 8]);
        b[2 * i + 1] = V::interleave_bytes_high(a[i], a[i + 8]);
      }
      for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    uint8_t* row = out + group * down;
    const int left = rows - group;
    for (int r = 0; r < 16 && r < left; ++r, row += down) V::template store_lane<0>(row, a[r]);
    if constexpr (V::kLaneCount == 2)
      for (int r = 16; r < 32 && r < left; ++r, row += down)
        V::template store_lane<1>(row, a[r - 16]);
  }
}

template <class V>
void place(const uint8_t* in, int n, int rows, uint8_t* out, int64_t right, int64_t down) {
  if ((right == 1 || right == -1) && n >= 16) {
    for (int begin = 0; begin < n; begin += 16) {
      const int x = begin + 16 <= n ? begin : n - 16;  // the last block overlaps the one before
      if (right == 1)
        place_block<V>(in + x * kBand, kBand, rows, out + x, down);
      else
        place_block<V>(in + (x + 15) * kBand, -kBand, rows, out - (x + 15), down);
    }
  } else if (down == 1 && rows == kBand) {
    for (int x = 0; x < n; ++x)
      for (int r = 0; r < kBand; ++r) out[x * right + r] = in[x * kBand + r];
  } else if (down == -1 && rows == kBand) {
    for (int x = 0; x < n; ++x)
      for (int r = 0; r < kBand; ++r)
        out[x * right + r - (kBand - 1)] = in[x * kBand + kBand - 1 - r];
  } else {
    for (int r = 0; r < rows; ++r)
      for (int x = 0; x < n; ++x) out[x * right + r * down] = in[x * kBand + r];
  }
}

template <class V, class Bytes = V>
constexpr PixelKernels kernels_with() {
  return {widen_bytes<V>,   widen_words<V>, blend_rows<V>, turn_band<V>,
          blend_columns<V>, colour<V>,      gray<V>,       place<Bytes>};
}

}  // namespace
}  // namespace keiko::media
