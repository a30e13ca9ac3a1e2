// The attention kernels for AVX2 and FMA; compiled with its flags where the compiler has them.

#include "model/attention_kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "model/attention_vector.h"

namespace keiko::model {
namespace {

using Kernels = AttentionFor<8>;
constexpr AttentionKernels kKernels = {"AVX2", Kernels::forward_scratch, Kernels::backward_scratch,
                                       Kernels::forward, Kernels::backward};

}  // namespace

const AttentionKernels* const kAvx2Attention = &kKernels;

}  // namespace keiko::model

#else

namespace keiko::model {

const AttentionKernels* const kAvx2Attention = nullptr;

}  // namespace keiko::model

#endif
