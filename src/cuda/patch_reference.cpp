#include <vector>

#include "cuda/patch_kernels.h"

namespace keiko::cuda::reference {
namespace {

// Calls `work` with a null pointer of the type behind `type`.
template <class Work>
void with_type(PatchType type, const Work& work) {
  if (type == PatchType::kFloat32)
    work(static_cast<float*>(nullptr));
  else
    work(static_cast<Bfloat16*>(nullptr));
}

void make_statistics(const PatchGrid& grid, const uint8_t* origin, PatchStatistics* statistics) {
  const auto n = int32_t(grid.channel_values());
  for (int32_t channel = 0; channel < 3; ++channel) {
    uint64_t sum = 0, squares = 0;
    for (int32_t i = 0; i < n; ++i) {
      const uint64_t level = origin[pixel_offset(grid, channel, i)];
      sum += level;
      squares += level * level;
    }
    statistics[channel] = patch_statistics(sum, squares, n);
  }
}

// Calls use(patch, target, values) for every patch; target(i) is value i of its target.
template <class Use>
void for_each_target(const PatchInput& input, PatchTarget unit, const Use& use) {
  PatchStatistics statistics[3];
  for (int64_t patch = 0; patch < input.patches(); ++patch) {
    const uint8_t* origin = patch_origin(input, patch);
    make_statistics(input.grid, origin, statistics);
    use(patch, [&](int32_t i) { return target_value(input.grid, origin, unit, statistics, i); });
  }
}

}  // namespace

void take_patches(const PatchInput& input, PatchType type, void* patches) {
  with_type(type, [&](auto* null) {
    auto* to = static_cast<decltype(null)>(patches);
    const auto n = int32_t(input.grid.channel_values());
    for (int64_t patch = 0; patch < input.patches(); ++patch) {
      const uint8_t* origin = patch_origin(input, patch);
      for (int32_t channel = 0; channel < 3; ++channel)
        for (int32_t i = 0; i < n; ++i)
          store_float(normalised_level(origin[pixel_offset(input.grid, channel, i)], channel),
                      to++);
    }
  });
}

void take_targets(const PatchInput& input, PatchTarget unit, PatchType type, void* targets) {
  with_type(type, [&](auto* null) {
    auto* to = static_cast<decltype(null)>(targets);
    for_each_target(input, unit, [&](int64_t, const auto& target) {
      for (int32_t i = 0; i < int32_t(input.patch_values()); ++i) store_float(target(i), to++);
    });
  });
}

void target_errors(const PatchInput& input, PatchTarget unit, PatchType type, const void* predicted,
                   float* errors) {
  with_type(type, [&](auto* null) {
    const auto* all = static_cast<const decltype(null)>(const_cast<void*>(predicted));
    const auto values = int32_t(input.patch_values());
    for_each_target(input, unit, [&](int64_t patch, const auto& target) {
      const auto* said = all + patch * values;
      double sums[kPatchLanes];
      for (int32_t lane = 0; lane < kPatchLanes; ++lane) {
        float sum = 0;
        for (int32_t i = lane; i < values; i += kPatchLanes)
          sum = add_square(sum, load_float(said + i), target(i));
        sums[lane] = double(sum);
      }
      for (int32_t half = kPatchLanes / 2; half > 0; half /= 2)
        for (int32_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
      errors[patch] = float(sums[0] / double(values));
    });
  });
}

void target_errors_backward(const PatchInput& input, PatchTarget unit, PatchType type,
                            const void* predicted, const float* upstream, void* gradient) {
  with_type(type, [&](auto* null) {
    const auto* all = static_cast<const decltype(null)>(const_cast<void*>(predicted));
    auto* out = static_cast<decltype(null)>(gradient);
    const auto values = int32_t(input.patch_values());
    for_each_target(input, unit, [&](int64_t patch, const auto& target) {
      for (int32_t i = 0; i < values; ++i) {
        const int64_t at = patch * values + i;
        store_float(error_gradient(load_float(all + at), target(i), upstream[patch], values),
                    out + at);
      }
    });
  });
}

}  // namespace keiko::cuda::reference
