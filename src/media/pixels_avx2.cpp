// The kernels for AVX2; compiled with -mavx2 where the compiler has it.

#include "media/pixels_kernels.h"

#ifdef __AVX2__
#include "media/pixels_avx2.h"

namespace keiko::media {
namespace {
constexpr PixelKernels kKernels = kernels_with<Avx2>();
}  // namespace
const PixelKernels* const kAvx2Kernels = &kKernels;
}  // namespace keiko::media
#else
namespace keiko::media {
const PixelKernels* const kAvx2Kernels = nullptr;
}  // namespace keiko::media
#endif
