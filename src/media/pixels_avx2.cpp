// The kernels for AVX2; compiled with -mavx2 where the compiler has it.

#include "media/pixels_kernels.h"

#ifdef __AVX2__
#include "media/pixels_avx2.h"

namespace keiko::media {
namespace {
constexpr PixelKernels kKernels = {
    widen_bytes<Avx2>,   widen_words<Avx2>, blend_rows<Avx2>, turn_band<Avx2>,
    blend_columns<Avx2>, colour<Avx2>,      gray<Avx2>,       place};
}  // namespace
const PixelKernels* const kAvx2Kernels = &kKernels;
}  // namespace keiko::media
#else
namespace keiko::media {
const PixelKernels* const kAvx2Kernels = nullptr;
}  // namespace keiko::media
#endif
