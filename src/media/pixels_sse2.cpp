// The kernels for SSE2, which every x86-64 processor has.

#include "media/pixels_kernels.h"

#ifdef __SSE2__
#include <emmintrin.h>

#include "media/pixels_vector.h"

namespace keiko::media {
namespace {

struct Sse2 {
  using Register = __m128i;
  static constexpr int kLanes = 8;

  static Register load(const int16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static Register load_bytes(const uint8_t* p) {
    return _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)),
                             _mm_setzero_si128());
  }
  static Register load_lanes(const int16_t* p, int64_t /*apart*/) { return load(p); }
  static void store(int16_t* p, Register a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
  static Register splat(int16_t value) { return _mm_set1_epi16(value); }
  static Register add(Register a, Register b) { return _mm_add_epi16(a, b); }
  static Register add_saturating(Register a, Register b) { return _mm_adds_epi16(a, b); }
  static Register sub(Register a, Register b) { return _mm_sub_epi16(a, b); }
  // The product's upper half, doubled, plus its lower half's two upper bits, halved and rounded up.
  static Register round_multiply(Register a, Register b) {
    const Register high = _mm_mulhi_epi16(a, b);
    const Register low = _mm_srli_epi16(_mm_mullo_epi16(a, b), 14);
    return _mm_add_epi16(_mm_add_epi16(high, high), _mm_avg_epu16(low, _mm_setzero_si128()));
  }
  static Register shift_left(Register a, int by) { return _mm_sll_epi16(a, _mm_cvtsi32_si128(by)); }
  static Register shift_right_unsigned(Register a, int by) {
    return _mm_srl_epi16(a, _mm_cvtsi32_si128(by));
  }
  static Register interleave_low(Register a, Register b) { return _mm_unpacklo_epi16(a, b); }
  static Register interleave_high(Register a, Register b) { return _mm_unpackhi_epi16(a, b); }
  static void store_levels(uint8_t* p, const Register (&a)[4]) {
    for (int i = 0; i < 4; i += 2) {
      const Register packed = _mm_packs_epi16(_mm_srai_epi16(a[i], 6), _mm_srai_epi16(a[i + 1], 6));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * i),
                       _mm_xor_si128(packed, _mm_set1_epi8(char(0x80))));
    }
  }

  static constexpr int kLaneCount = 1;
  static Register load_raw(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static Register interleave_bytes_low(Register a, Register b) { return _mm_unpacklo_epi8(a, b); }
  static Register interleave_bytes_high(Register a, Register b) { return _mm_unpackhi_epi8(a, b); }
  template <int kLane>
  static void store_lane(uint8_t* p, Register a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a);
  }
};

constexpr PixelKernels kKernels = kernels_with<Sse2>();
}  // namespace
const PixelKernels* const kSse2Kernels = &kKernels;
}  // namespace keiko::media
#else
namespace keiko::media {
const PixelKernels* const kSse2Kernels = nullptr;
}  // namespace keiko::media
#endif
