// The AVX2 registers of pixels_vector.h, and the byte transposition that AVX-512 uses too.

#pragma once
#include <immintrin.h>

#include "media/pixels_vector.h"

namespace keiko::media {
namespace {

struct Avx2 {
  using Register = __m256i;
  static constexpr int kLanes = 16;

  static Register load(const int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Register load_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Eight words at p in the low lane, eight at p + apart in the high one.
  static Register load_lanes(const int16_t* p, int64_t apart) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + apart)), 1);
  }
  static void store(int16_t* p, Register a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
  }
  static Register splat(int16_t value) { return _mm256_set1_epi16(value); }
  static Register add(Register a, Register b) { return _mm256_add_epi16(a, b); }
  static Register add_saturating(Register a, Register b) { return _mm256_adds_epi16(a, b); }
  static Register sub(Register a, Register b) { return _mm256_sub_epi16(a, b); }
  static Register round_multiply(Register a, Register b) { return _mm256_mulhrs_epi16(a, b); }
  static Register shift_left(Register a, int by) {
    return _mm256_sll_epi16(a, _mm_cvtsi32_si128(by));
  }
  static Register shift_right_unsigned(Register a, int by) {
    return _mm256_srl_epi16(a, _mm_cvtsi32_si128(by));
  }
  static Register interleave_low(Register a, Register b) { return _mm256_unpacklo_epi16(a, b); }
  static Register interleave_high(Register a, Register b) { return _mm256_unpackhi_epi16(a, b); }
  // 32 values in 1/64 level around 128, as bytes.
  static void store_levels(uint8_t* p, const Register (&a)[2]) {
    const __m256i packed =
        _mm256_packs_epi16(_mm256_srai_epi16(a[0], 6), _mm256_srai_epi16(a[1], 6));
    const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_xor_si256(ordered, _mm256_set1_epi8(char(0x80))));
  }
};

// 16 columns of 32 bytes, `step` apart in memory (kBand or -kBand), to 32 rows of 16 bytes.
inline void place_block(const uint8_t* in, int step, int rows, uint8_t* out, int64_t down) {
  static_assert(kBand == 32);
  __m256i a[16], b[16];
  for (int i = 0; i < 16; ++i)
    a[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * step));
  // As in turn_band, with bytes: four rounds of interleaving i with i + 8.
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int r = 0; r < 16 && r < rows; ++r)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + r * down), _mm256_castsi256_si128(a[r]));
  for (int r = 16; r < rows; ++r)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + r * down),
                     _mm256_extracti128_si256(a[r - 16], 1));
}

void place(const uint8_t* in, int n, int rows, uint8_t* out, int64_t right, int64_t down) {
  if ((right == 1 || right == -1) && n >= 16) {
    for (int begin = 0; begin < n; begin += 16) {
      const int x = begin + 16 <= n ? begin : n - 16;  // the last block overlaps the one before
      if (right == 1)
        place_block(in + x * kBand, kBand, rows, out + x, down);
      else
        place_block(in + (x + 15) * kBand, -kBand, rows, out - (x + 15), down);
    }
    return;
  }
  if (down == 1 && rows == kBand) {
    for (int x = 0; x < n; ++x)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x * right),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + x * kBand)));
    return;
  }
  if (down == -1 && rows == kBand) {
    const __m256i reverse = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    for (int x = 0; x < n; ++x) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + x * kBand));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x * right - (kBand - 1)),
                          _mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, reverse), 0x4e));
    }
    return;
  }
  for (int r = 0; r < rows; ++r)
    for (int x = 0; x < n; ++x) out[x * right + r * down] = in[x * kBand + r];
}

}  // namespace
}  // namespace keiko::media
