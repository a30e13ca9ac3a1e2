#include "gpu/device_patches.h"

#include <ATen/ATen.h>

#include "cuda/patch_kernels.h"

namespace keiko::gpu {
namespace {

cuda::PatchTarget unit_of(model::TargetUnit unit) {
  switch (unit) {
    case model::TargetUnit::kUnit:
      return cuda::PatchTarget::kUnit;
    case model::TargetUnit::kImageNet:
      return cuda::PatchTarget::kImageNet;
    case model::TargetUnit::kPatch:
      break;
  }
  return cuda::PatchTarget::kPatch;
}

class DevicePatches : public model::DeviceKernels {
 public:
  explicit DevicePatches(const Accelerator& accelerator) : accelerator_(accelerator) {}

  at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids,
                          const model::TokenGrid& grid) const override {
    const cuda::PatchInput input = input_of(video, ids, grid);
    const at::Tensor patches = rows(video, {ids.size(0), ids.size(1), input.patch_values()});
    cuda::take_patches(input, kType, patches.mutable_data_ptr(), stream());
    return patches;
  }
  at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids,
                          const model::TokenGrid& grid, model::TargetUnit unit) const override {
    const cuda::PatchInput input = input_of(video, ids, grid);
    const at::Tensor targets = rows(video, {ids.size(0), ids.size(1), input.patch_values()});
    cuda::take_targets(input, unit_of(unit), kType, targets.mutable_data_ptr(), stream());
    return targets;
  }
  at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                           const at::Tensor& ids, const model::TokenGrid& grid,
                           model::TargetUnit unit) const override {
    const cuda::PatchInput input = input_of(video, ids, grid);
    const at::Tensor errors = rows(video, {ids.size(0), ids.size(1)});
    cuda::target_errors(input, unit_of(unit), kType, predicted.const_data_ptr(),
                        errors.mutable_data_ptr<float>(), stream());
    return errors;
  }
  at::Tensor target_errors_backward(const at::Tensor& upstream, const at::Tensor& predicted,
                                    const at::Tensor& video, const at::Tensor& ids,
                                    const model::TokenGrid& grid,
                                    model::TargetUnit unit) const override {
    const cuda::PatchInput input = input_of(video, ids, grid);
    const at::Tensor gradient = at::empty_like(predicted);
    cuda::target_errors_backward(input, unit_of(unit), kType, predicted.const_data_ptr(),
                                 upstream.const_data_ptr<float>(), gradient.mutable_data_ptr(),
                                 stream());
    return gradient;
  }

 private:
  static constexpr cuda::PatchType kType = cuda::PatchType::kFloat32;

  // torch's own stream: what it was given before is done before.
  cuda::Stream stream() const {
    return {int(accelerator_.device().index()), accelerator_.stream()};
  }
  static at::Tensor rows(const at::Tensor& video, at::IntArrayRef shape) {
    return at::empty(shape, video.options().dtype(at::kFloat));
  }
  static cuda::PatchInput input_of(const at::Tensor& video, const at::Tensor& ids,
                                   const model::TokenGrid& grid) {
    cuda::PatchInput input;
    input.video = video.const_data_ptr<uint8_t>();
    input.ids = ids.const_data_ptr<int64_t>();
    input.clips = ids.size(0);
    input.kept = ids.size(1);
    input.grid = {grid.times, grid.rows, grid.columns, grid.tubelet_size, grid.patch_size};
    return input;
  }

  const Accelerator& accelerator_;
};

}  // namespace

std::shared_ptr<const model::DeviceKernels> make_device_patches(const Accelerator& accelerator) {
  return std::make_shared<DevicePatches>(accelerator);
}

}  // namespace keiko::gpu
