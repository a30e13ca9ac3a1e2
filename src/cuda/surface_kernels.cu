#include <cuda_runtime.h>

#include "cuda/surface_kernels.cuh"

namespace keiko::cuda {
namespace {

template <class Sample>
void start(const SurfaceTask& task, int columns_read, cudaStream_t stream) {
  const SurfaceLaunch launch = plan_surface_launch(task, columns_read);
  const dim3 grid(unsigned(launch.grid_x), unsigned(launch.grid_y));
  const dim3 block(kSurfaceTileColumns, unsigned(launch.warps));
  if (launch.shared_bytes > 0)
    convert_surface<Sample, true>
        <<<grid, block, size_t(launch.shared_bytes), stream>>>(task, columns_read);
  else
    convert_surface<Sample, false><<<grid, block, 0, stream>>>(task, columns_read);
}

}  // namespace

int launch_surface_kernel(const SurfaceTask& task, bool has_wide_samples, int columns_read,
                          StreamHandle stream) {
  if (task.width <= 0 || task.height <= 0) return int(cudaSuccess);
  if (has_wide_samples)
    start<uint16_t>(task, columns_read, stream);
  else
    start<uint8_t>(task, columns_read, stream);
  return int(cudaGetLastError());
}

}  // namespace keiko::cuda
