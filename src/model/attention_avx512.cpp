// The attention kernels for AVX-512; compiled with its flags where the compiler has them.

#include "model/attention_kernels.h"

#if defined(__AVX512F__)
#include "model/attention_vector.h"

namespace keiko::model {
namespace {

using Kernels = AttentionFor<16>;
constexpr AttentionKernels kKernels = {"AVX-512", Kernels::forward_scratch,
                                       Kernels::backward_scratch, Kernels::forward,
                                       Kernels::backward};

}  // namespace

const AttentionKernels* const kAvx512Attention = &kKernels;

}  // namespace keiko::model

#else

namespace keiko::model {

const AttentionKernels* const kAvx512Attention = nullptr;

}  // namespace keiko::model

#endif
