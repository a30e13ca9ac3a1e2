#include "model/patches.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>

#include "base/error.h"
#include "model/device_kernels.h"
#include "model/patch_formulas.h"

namespace keiko::model {
namespace {

constexpr int64_t kGrain = 16;  // patches that are worth a thread

// Calls `work` with a value of the type behind `dtype`. (ATen's macro for it would write this
// file's path into the library.)
template <class Work>
void with_type(at::ScalarType dtype, const Work& work) {
  if (dtype == at::kFloat)
    work(float{});
  else if (dtype == at::kDouble)
    work(double{});
  else
    fail(ErrorKind::kInternal, "patches are made in float32 or float64, not in {}",
         at::toString(dtype));
}

void check_shapes(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid) {
  if (video.scalar_type() != at::kByte || video.dim() != 5 || video.size(1) != 3 ||
      video.size(2) != grid.times * grid.tubelet_size ||
      video.size(3) != grid.rows * grid.patch_size ||
      video.size(4) != grid.columns * grid.patch_size || ids.size(0) != video.size(0))
    fail(ErrorKind::kInternal, "clips and token indices do not fit the grid");
  if (video.device() != ids.device())
    fail(ErrorKind::kInternal, "clips are on {}, but token indices on {}", video.device().str(),
         ids.device().str());
}

// Where the pixels of a clip's patches lie, on the CPU.
class PatchPixels {
 public:
  PatchPixels(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid)
      : video_(video.contiguous()), ids_(ids.contiguous()), grid_(grid) {
    check_shapes(video, ids, grid);
  }

  int64_t count() const { return ids_.numel(); }
  int64_t channel_values() const { return grid_.patch_values() / 3; }

  // Copies the pixels of patch `i` (of all B * K), channel by channel, to `to`.
  void copy(int64_t i, uint8_t* to) const {
    const int64_t token = ids_.const_data_ptr<int64_t>()[i];
    const int64_t width = video_.size(4), frame = video_.size(3) * width;
    const int64_t spatial = grid_.rows * grid_.columns, p = grid_.patch_size;
    const uint8_t* from = video_.const_data_ptr<uint8_t>() +
                          i / ids_.size(1) * 3 * video_.size(2) * frame +
                          token / spatial * grid_.tubelet_size * frame +
                          token % spatial / grid_.columns * p * width + token % grid_.columns * p;
    for (int64_t channel = 0; channel < 3; ++channel, from += video_.size(2) * frame)
      for (int64_t t = 0; t < grid_.tubelet_size; ++t)
        for (int64_t row = 0; row < p; ++row, to += p)
          std::copy_n(from + t * frame + row * width, p, to);
  }

 private:
  at::Tensor video_, ids_;
  TokenGrid grid_;
};

// What each of the 256 levels of a channel becomes.
template <class T>
using Levels = std::array<std::array<T, 256>, 3>;

template <class T>
Levels<T> make_levels(bool imagenet) {
  Levels<T> levels;
  for (int channel = 0; channel < 3; ++channel)
    for (int x = 0; x < 256; ++x) {
      const T unit = T(x) / T(255);
      levels[size_t(channel)][size_t(x)] =
          imagenet ? (unit - T(kImageNetMean[channel])) / T(kImageNetStd[channel]) : unit;
    }
  return levels;
}

// `pixels`: n of one channel. Their distance to the mean over (standard deviation + 1e-6), both of
// the unit interval. Sums of whole numbers are exact, and so is the difference to a whole number
// near the mean.
template <class T>
void standardise(const uint8_t* pixels, int64_t n, T* out) {
  uint64_t sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += pixels[i];
    squares += uint32_t(pixels[i]) * pixels[i];
  }
  const double mean = double(sum) / double(n);
  const double variance = double(uint64_t(n) * squares - sum * sum) / (double(n) * double(n - 1));
  const int32_t near = int32_t(std::lround(mean));
  const T rest = T(mean - near), factor = T(1 / (std::sqrt(variance) + 255e-6));
  for (int64_t i = 0; i < n; ++i) out[i] = (T(int32_t(pixels[i]) - near) - rest) * factor;
}

// Makes the targets of one patch after another in memory of its own.
template <class T>
class TargetMaker {
 public:
  TargetMaker(const PatchPixels& source, TargetUnit unit, const Levels<T>& levels)
      : source_(source),
        unit_(unit),
        levels_(levels),
        n_(source.channel_values()),
        pixels_(new uint8_t[size_t(3 * n_)]),
        channels_(new T[size_t(3 * n_)]),
        target_(new T[size_t(3 * n_)]) {}

  // [P] numbers, valid until the next call.
  const T* make(int64_t patch) {
    source_.copy(patch, pixels_.get());
    for (int64_t channel = 0; channel < 3; ++channel) {
      const uint8_t* pixels = pixels_.get() + channel * n_;
      T* out = channels_.get() + channel * n_;
      if (unit_ == TargetUnit::kPatch) {
        standardise(pixels, n_, out);
      } else {
        const auto& level = levels_[size_t(channel)];
        for (int64_t i = 0; i < n_; ++i) out[i] = level[pixels[i]];
      }
    }
    const T *red = channels_.get(), *green = red + n_, *blue = green + n_;
    T* out = target_.get();
    for (int64_t i = 0; i < n_; ++i, out += 3) {
      out[0] = red[i];
      out[1] = green[i];
      out[2] = blue[i];
    }
    return target_.get();
  }

 private:
  const PatchPixels& source_;
  TargetUnit unit_;
  const Levels<T>& levels_;
  int64_t n_;
  std::unique_ptr<uint8_t[]> pixels_;
  std::unique_ptr<T[]> channels_, target_;
};

// Calls use(maker, patch) for every patch, on several threads.
template <class T, class Use>
void for_each_target(const PatchPixels& source, TargetUnit unit, const Use& use) {
  const Levels<T> levels = make_levels<T>(unit == TargetUnit::kImageNet);
  at::parallel_for(0, source.count(), kGrain, [&](int64_t begin, int64_t end) {
    TargetMaker<T> maker(source, unit, levels);
    for (int64_t patch = begin; patch < end; ++patch) use(maker, patch);
  });
}

// Of the differences; in 16 sums, because one alone would wait for itself at every number.
template <class T>
double sum_of_squares(const T* a, const T* b, int64_t n) {
  T sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t j = 0; j < 16; ++j) sums[j] += (a[i + j] - b[i + j]) * (a[i + j] - b[i + j]);
  double sum = 0;
  for (T s : sums) sum += double(s);
  for (; i < n; ++i) sum += double((a[i] - b[i]) * (a[i] - b[i]));
  return sum;
}

at::Tensor errors_on_cpu(const at::Tensor& said, const at::Tensor& video, const at::Tensor& ids,
                         const TokenGrid& grid, TargetUnit unit) {
  const PatchPixels source(video, ids, grid);
  at::Tensor errors = at::empty(ids.sizes(), said.options());
  const int64_t p = grid.patch_values();
  with_type(said.scalar_type(), [&](auto type) {
    using scalar_t = decltype(type);
    const auto* all = said.const_data_ptr<scalar_t>();
    auto* out = errors.mutable_data_ptr<scalar_t>();
    for_each_target<scalar_t>(source, unit, [&](TargetMaker<scalar_t>& maker, int64_t patch) {
      out[patch] = scalar_t(sum_of_squares(all + patch * p, maker.make(patch), p) / double(p));
    });
  });
  return errors;
}

at::Tensor errors_backward_on_cpu(const at::Tensor& upstream, const at::Tensor& said,
                                  const at::Tensor& video, const at::Tensor& ids,
                                  const TokenGrid& grid, TargetUnit unit) {
  const PatchPixels source(video, ids, grid);
  at::Tensor grad = at::empty(said.sizes(), said.options());
  const int64_t p = grid.patch_values();
  with_type(grad.scalar_type(), [&](auto type) {
    using scalar_t = decltype(type);
    const auto* all = said.const_data_ptr<scalar_t>();
    const auto* factors = upstream.const_data_ptr<scalar_t>();
    auto* out = grad.mutable_data_ptr<scalar_t>();
    for_each_target<scalar_t>(source, unit, [&](TargetMaker<scalar_t>& maker, int64_t patch) {
      const scalar_t *mine = all + patch * p, factor = factors[patch] * scalar_t(2.0 / double(p));
      const scalar_t* target = maker.make(patch);
      scalar_t* to = out + patch * p;
      for (int64_t j = 0; j < p; ++j) to[j] = (mine[j] - target[j]) * factor;
    });
  });
  return grad;
}

// Those of the tensor's device, for numbers of `dtype`; null: there are none.
const DeviceKernels* kernels_for(const at::Tensor& video, at::ScalarType dtype) {
  return dtype == at::kFloat ? device_kernels(video.device().type()) : nullptr;
}

struct TargetErrors : torch::autograd::Function<TargetErrors> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& predicted,
                            const at::Tensor& video_in, const at::Tensor& ids_in,
                            const TokenGrid& grid, TargetUnit unit) {
    const at::Tensor said = predicted.contiguous(), video = video_in.contiguous(),
                     ids = ids_in.contiguous();
    const DeviceKernels* kernels = kernels_for(video, said.scalar_type());
    const at::Tensor errors = kernels != nullptr
                                  ? kernels->target_errors(said, video, ids, grid, unit)
                                  : errors_on_cpu(said, video, ids, grid, unit);
    context->save_for_backward({said, video, ids});
    context->saved_data["grid"] = std::vector<int64_t>{grid.times, grid.rows, grid.columns,
                                                       grid.tubelet_size, grid.patch_size};
    context->saved_data["unit"] = int64_t(unit);
    return errors;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto g = context->saved_data["grid"].toIntVector();
    const TokenGrid grid{g[0], g[1], g[2], g[3], g[4]};
    const auto unit = TargetUnit(context->saved_data["unit"].toInt());
    const at::Tensor upstream = grads[0].contiguous();
    const DeviceKernels* kernels = kernels_for(saved[1], saved[0].scalar_type());
    const at::Tensor grad =
        kernels != nullptr
            ? kernels->target_errors_backward(upstream, saved[0], saved[1], saved[2], grid, unit)
            : errors_backward_on_cpu(upstream, saved[0], saved[1], saved[2], grid, unit);
    return {grad, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

std::map<at::DeviceType, std::shared_ptr<const DeviceKernels>>& registered() {
  static std::map<at::DeviceType, std::shared_ptr<const DeviceKernels>> kernels;
  return kernels;
}

}  // namespace

void set_device_kernels(at::DeviceType type, std::shared_ptr<const DeviceKernels> kernels) {
  registered()[type] = std::move(kernels);
}

const DeviceKernels* device_kernels(at::DeviceType type) {
  const auto found = registered().find(type);
  return found == registered().end() ? nullptr : found->second.get();
}

at::Tensor take_patches(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        at::ScalarType dtype) {
  check_shapes(video, ids, grid);
  if (const DeviceKernels* kernels = kernels_for(video, dtype))
    return kernels->take_patches(video.contiguous(), ids.contiguous(), grid);
  if (!video.is_cpu()) return formulas::take_patches(video, ids, grid, dtype);
  const PatchPixels source(video, ids, grid);
  const int64_t p = grid.patch_values(), n = source.channel_values();
  at::Tensor patches = at::empty({ids.size(0), ids.size(1), p}, dtype);
  with_type(dtype, [&](auto type) {
    using scalar_t = decltype(type);
    const Levels<scalar_t> levels = make_levels<scalar_t>(true);
    auto* out = patches.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, source.count(), kGrain, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<uint8_t[]> pixels(new uint8_t[size_t(p)]);
      for (int64_t patch = begin; patch < end; ++patch) {
        source.copy(patch, pixels.get());
        for (int64_t j = 0; j < p; ++j)
          out[patch * p + j] = levels[size_t(j / n)][pixels[size_t(j)]];
      }
    });
  });
  return patches;
}

at::Tensor take_targets(const at::Tensor& video, const at::Tensor& ids, const TokenGrid& grid,
                        TargetUnit unit, at::ScalarType dtype) {
  check_shapes(video, ids, grid);
  if (const DeviceKernels* kernels = kernels_for(video, dtype))
    return kernels->take_targets(video.contiguous(), ids.contiguous(), grid, unit);
  if (!video.is_cpu()) return formulas::take_targets(video, ids, grid, unit, dtype);
  const PatchPixels source(video, ids, grid);
  const int64_t p = grid.patch_values();
  at::Tensor targets = at::empty({ids.size(0), ids.size(1), p}, dtype);
  with_type(dtype, [&](auto type) {
    using scalar_t = decltype(type);
    auto* out = targets.mutable_data_ptr<scalar_t>();
    for_each_target<scalar_t>(source, unit, [&](TargetMaker<scalar_t>& maker, int64_t patch) {
      std::copy_n(maker.make(patch), p, out + patch * p);
    });
  });
  return targets;
}

at::Tensor target_errors(const at::Tensor& predicted, const at::Tensor& video,
                         const at::Tensor& ids, const TokenGrid& grid, TargetUnit unit) {
  check_shapes(video, ids, grid);
  if (!video.is_cpu() && kernels_for(video, predicted.scalar_type()) == nullptr)
    return formulas::target_errors(predicted, video, ids, grid, unit);
  return TargetErrors::apply(predicted, video, ids, grid, unit);
}

}  // namespace keiko::model
