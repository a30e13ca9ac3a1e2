// The kernels for AVX-512 with byte and word instructions; compiled with -mavx512bw -mavx512vl
// where the compiler has them.

#include "media/pixels_kernels.h"

// GCC 12 takes the undefined operands inside its own intrinsics for mistakes (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include "media/pixels_avx2.h"

namespace keiko::media {
namespace {

struct Avx512 {
  using Register = __m512i;
  static constexpr int kLanes = 32;

  static Register load(const int16_t* p) { return _mm512_loadu_si512(p); }
  static Register load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Register load_lanes(const int16_t* p, int64_t apart) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(Avx2::load_lanes(p, apart)),
                              Avx2::load_lanes(p + 2 * apart, apart), 1);
  }
  static void store(int16_t* p, Register a) { _mm512_storeu_si512(p, a); }
  static Register splat(int16_t value) { return _mm512_set1_epi16(value); }
  static Register add(Register a, Register b) { return _mm512_add_epi16(a, b); }
  static Register add_saturating(Register a, Register b) { return _mm512_adds_epi16(a, b); }
  static Register sub(Register a, Register b) { return _mm512_sub_epi16(a, b); }
  static Register round_multiply(Register a, Register b) { return _mm512_mulhrs_epi16(a, b); }
  static Register shift_left(Register a, int by) {
    return _mm512_sll_epi16(a, _mm_cvtsi32_si128(by));
  }
  static Register shift_right_unsigned(Register a, int by) {
    return _mm512_srl_epi16(a, _mm_cvtsi32_si128(by));
  }
  static Register interleave_low(Register a, Register b) { return _mm512_unpacklo_epi16(a, b); }
  static Register interleave_high(Register a, Register b) { return _mm512_unpackhi_epi16(a, b); }
  static void store_levels(uint8_t* p, const Register (&a)[1]) {
    const __m256i bytes = _mm512_cvtsepi16_epi8(_mm512_srai_epi16(a[0], 6));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_xor_si256(bytes, _mm256_set1_epi8(char(0x80))));
  }
};

constexpr PixelKernels kKernels = kernels_with<Avx512, Avx2>();

}  // namespace
const PixelKernels* const kAvx512Kernels = &kKernels;
}  // namespace keiko::media
#else
namespace keiko::media {
const PixelKernels* const kAvx512Kernels = nullptr;
}  // namespace keiko::media
#endif
