// The launch of the pixel kernel, alone in a header that nvcc can read.

#pragma once
#include "cuda/device.h"
#include "cuda/surface_arithmetic.h"

namespace keiko::cuda {

// Output columns that one warp makes, side by side.
constexpr int kSurfaceTileColumns = 32;

// Blocks of kSurfaceTileColumns x `warps` threads, one for each output pixel.
struct SurfaceLaunch {
  int warps = 0;
  int grid_x = 0, grid_y = 0;
  int64_t shared_bytes = 0;  // of a block; 0: columns are not staged
};

// `columns_read`: as SurfacePlan::columns_read(kSurfaceTileColumns).
inline SurfaceLaunch plan_surface_launch(const SurfaceTask& task, int columns_read) {
  constexpr int kMostWarps = 8;
  constexpr int64_t kMostShared = 48 * 1024;  // what every device gives a block without being asked
  const int64_t row_bytes = int64_t(columns_read) * int64_t(sizeof(float));
  SurfaceLaunch launch;
  launch.warps = kMostWarps;
  while (launch.warps > 1 && row_bytes * launch.warps > kMostShared) launch.warps /= 2;
  launch.grid_x = (task.width + kSurfaceTileColumns - 1) / kSurfaceTileColumns;
  launch.grid_y = (task.height + launch.warps - 1) / launch.warps;
  launch.shared_bytes = row_bytes * launch.warps;
  if (launch.shared_bytes > kMostShared) launch.shared_bytes = 0;
  return launch;
}

// Adds the conversion to `stream`, of the calling thread's device. Returns a cudaError_t.
int launch_surface_kernel(const SurfaceTask& task, bool has_wide_samples, int columns_read,
                          StreamHandle stream);

}  // namespace keiko::cuda
