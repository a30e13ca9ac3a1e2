// The AVX2 registers of pixels_vector.h. AVX-512 places bytes with them, too.

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

  static constexpr int kLaneCount = 2;  // of 16 bytes
  static Register load_raw(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Register interleave_bytes_low(Register a, Register b) {
    return _mm256_unpacklo_epi8(a, b);
  }
  static Register interleave_bytes_high(Register a, Register b) {
    return _mm256_unpackhi_epi8(a, b);
  }
  template <int kLane>
  static void store_lane(uint8_t* p, Register a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_extracti128_si256(a, kLane));
  }
};

}  // namespace
}  // namespace keiko::media
