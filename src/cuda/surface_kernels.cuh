// The pixel kernel. nvcc compiles it for the device (surface_kernels.cu), g++ for a test that runs
// its threads one after the other on the CPU (emulation_for_tests.h).
//
// Why this shape: a warp makes 32 neighbouring pixels of one output row. First its lanes blend the
// rows of every input column that these pixels need, neighbouring lanes neighbouring columns, so
// that loads are coalesced however much the picture shrinks; the blended columns lie in shared
// memory, where each lane then blends its own. Rows before columns because the other order would
// read bytes `scale` apart. A warp needs nobody else's columns, so there is no barrier between
// warps, and the warps of a block, which are rows below each other, find most of their input rows
// in the cache. Luma, u and v take turns in the same memory.

#pragma once
#include "cuda/surface_kernels.h"

namespace keiko::cuda {

// Output column `x` of row `y`; `first`, `last`: of the warp's columns.
template <class Sample>
__device__ float resize_staged(const SurfacePlane& plane, const SurfaceAxis& columns,
                               const SurfaceAxis& rows, int first, int last, int x, int y,
                               float* blended) {
  const int begin = columns.first[first], end = columns.first[last] + columns.taps;
  __syncwarp();  // the plane before has been read
  for (int c = begin + int(threadIdx.x); c < end; c += kSurfaceTileColumns)
    blended[c - begin] = blend_rows<Sample>(plane, rows, y, c);
  __syncwarp();
  return blend_columns(blended + (columns.first[x] - begin), columns, x);
}

// The same without staging, for pictures whose columns do not fit.
template <class Sample>
__device__ float resize_directly(const SurfacePlane& plane, const SurfaceAxis& columns,
                                 const SurfaceAxis& rows, int x, int y) {
  const float* weights = columns.weights + int64_t(x) * columns.taps;
  float sum = 0;
  for (int k = 0; k < columns.taps; ++k)
    sum = fmaf(load_constant(weights + k), blend_rows<Sample>(plane, rows, y, columns.first[x] + k),
               sum);
  return sum;
}

// Launched as plan_surface_launch() says.
template <class Sample, bool kIsStaged>
__global__ void convert_surface(const SurfaceTask task, int columns_read) {
  KEIKO_DYNAMIC_SHARED(float, memory);
  const int y = int(blockIdx.y * blockDim.y + threadIdx.y);
  if (y >= task.height) return;  // all lanes of a warp, or none
  const int first = int(blockIdx.x) * kSurfaceTileColumns;
  const int last =
      (first + kSurfaceTileColumns < task.width ? first + kSurfaceTileColumns : int(task.width)) -
      1;
  const int column = first + int(threadIdx.x);
  const int x = column < last ? column : last;  // every lane must load
  float* mine = memory + int(threadIdx.y) * columns_read;
  const auto resize = [&](const SurfacePlane& plane, const SurfaceAxis& columns,
                          const SurfaceAxis& rows) {
    if constexpr (kIsStaged)
      return resize_staged<Sample>(plane, columns, rows, first, last, x, y, mine);
    else
      return resize_directly<Sample>(plane, columns, rows, x, y);
  };
  const float luma = resize(task.luma, task.luma_x, task.luma_y);
  float u = 0, v = 0;
  if (task.has_chroma) {
    u = resize(task.chroma[0], task.chroma_x, task.chroma_y);
    v = resize(task.chroma[1], task.chroma_x, task.chroma_y);
  }
  if (column <= last) store_pixel(task, x, y, luma, u, v);
}

}  // namespace keiko::cuda
