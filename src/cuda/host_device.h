// Functions that kernels and their references on the CPU share.
//
// A kernel and its reference give the same bits because they are the same functions: every rounding
// is written down. Products and sums that are one operation say fmaf; nvcc may not fuse others
// (-fmad=false), nor may g++ (-ffp-contract=off). Headers with such functions are C++17 and
// include no heavy header of ours, because nvcc reads them too.

#pragma once

#ifdef __CUDACC__
#define KEIKO_HOST_DEVICE __host__ __device__ __forceinline__
// In a kernel: `name` is the block's shared memory, as an array of the launch's size, or one value.
#define KEIKO_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define KEIKO_SHARED(type, name) __shared__ type name
#else
#define KEIKO_HOST_DEVICE inline
#endif

namespace keiko::cuda {

// What `from` points to, and nobody writes while kernels that read it run: on a device it comes
// through the read-only cache, and the compiler may load ahead of stores to other memory.
template <class T>
KEIKO_HOST_DEVICE T load_constant(const T* from) {
#ifdef __CUDA_ARCH__
  return __ldg(from);
#else
  return *from;
#endif
}

}  // namespace keiko::cuda
