#include "cuda/patch_kernels.h"

#include <climits>

#include "base/error.h"
#include "cuda/error.h"
#include "cuda/patch_launch.h"

namespace keiko::cuda {
namespace {

// Returns whether there is anything to do.
bool check_sizes(const PatchInput& in) {
  const PatchGrid& g = in.grid;
  const bool has_sizes = in.clips >= 0 && in.kept >= 0 && g.times > 0 && g.rows > 0 &&
                         g.columns > 0 && g.tubelet_size > 0 && g.patch_size > 0;
  // One block a patch, and values of a patch counted in 32 bits.
  if (!has_sizes || in.patches() > INT_MAX || in.patch_values() > INT_MAX / 4)
    fail(ErrorKind::kInternal,
         "the patch kernels cannot take {} patches of each of {} clips, {} x {} x {} tokens of {} "
         "frames and {} pixels",
         in.kept, in.clips, g.times, g.rows, g.columns, g.tubelet_size, g.patch_size);
  return in.patches() > 0;
}

}  // namespace

void take_patches(const PatchInput& input, PatchType type, void* patches, const Stream& stream) {
  if (!check_sizes(input)) return;
  const DeviceScope scope(stream.device());
  const auto launch = [&](auto* to) {
    check(launch_make_patches(input, fits_wide_patches(input, to), to, stream.handle()),
          "the kernel that makes patches");
  };
  type == PatchType::kFloat32 ? launch(static_cast<float*>(patches))
                              : launch(static_cast<Bfloat16*>(patches));
}

void take_targets(const PatchInput& input, PatchTarget unit, PatchType type, void* targets,
                  const Stream& stream) {
  if (!check_sizes(input)) return;
  const DeviceScope scope(stream.device());
  const auto launch = [&](auto* to) {
    check(launch_make_targets(input, unit, to, stream.handle()), "the kernel that makes targets");
  };
  type == PatchType::kFloat32 ? launch(static_cast<float*>(targets))
                              : launch(static_cast<Bfloat16*>(targets));
}

void target_errors(const PatchInput& input, PatchTarget unit, PatchType type, const void* predicted,
                   float* errors, const Stream& stream) {
  if (!check_sizes(input)) return;
  const DeviceScope scope(stream.device());
  const auto launch = [&](const auto* said) {
    check(launch_sum_errors(input, unit, said, errors, stream.handle()),
          "the kernel that sums errors");
  };
  type == PatchType::kFloat32 ? launch(static_cast<const float*>(predicted))
                              : launch(static_cast<const Bfloat16*>(predicted));
}

void target_errors_backward(const PatchInput& input, PatchTarget unit, PatchType type,
                            const void* predicted, const float* upstream, void* gradient,
                            const Stream& stream) {
  if (!check_sizes(input)) return;
  const DeviceScope scope(stream.device());
  const auto launch = [&](const auto* said, auto* to) {
    check(launch_differentiate_errors(input, unit, said, upstream, to, stream.handle()),
          "the kernel that differentiates errors");
  };
  type == PatchType::kFloat32
      ? launch(static_cast<const float*>(predicted), static_cast<float*>(gradient))
      : launch(static_cast<const Bfloat16*>(predicted), static_cast<Bfloat16*>(gradient));
}

}  // namespace keiko::cuda
