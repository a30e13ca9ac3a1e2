// The kernels of patches and targets: VideoMAE's clips of 16 x 224 x 224 with nine tenths masked.

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "cuda/device_copies_for_tests.h"
#include "cuda/patch_kernels.h"
#include "kernels.h"

namespace keiko::bench {
namespace {

using cuda::PatchInput;
using cuda::PatchTarget;
using cuda::PatchType;

const cuda::PatchGrid kGrid = {8, 14, 14, 2, 16};
constexpr int64_t kTokens = 8 * 14 * 14;

enum class Kernel { kPatches, kTargets, kErrors, kGradient };

struct PatchCase {
  const char* name;
  Kernel kernel;
  PatchType type;
  PatchTarget unit;
  int64_t kept;  // tokens of each clip
};

const PatchCase kCases[] = {
    {"patches float32", Kernel::kPatches, PatchType::kFloat32, PatchTarget::kImageNet, 160},
    {"patches bfloat16", Kernel::kPatches, PatchType::kBfloat16, PatchTarget::kImageNet, 160},
    {"targets float32 unit", Kernel::kTargets, PatchType::kFloat32, PatchTarget::kUnit, 1408},
    {"targets float32 imagenet", Kernel::kTargets, PatchType::kFloat32, PatchTarget::kImageNet,
     1408},
    {"targets float32 patch", Kernel::kTargets, PatchType::kFloat32, PatchTarget::kPatch, 1408},
    {"errors float32 patch", Kernel::kErrors, PatchType::kFloat32, PatchTarget::kPatch, 1408},
    {"errors bfloat16 patch", Kernel::kErrors, PatchType::kBfloat16, PatchTarget::kPatch, 1408},
    {"gradient float32 patch", Kernel::kGradient, PatchType::kFloat32, PatchTarget::kPatch, 1408},
    {"gradient bfloat16 patch", Kernel::kGradient, PatchType::kBfloat16, PatchTarget::kPatch,
     1408}};

enum class Fill { kNoise, kEven, kNearlyEven };

// The memory of one run, on the host.
struct Input {
  std::vector<uint8_t> video, said;  // `said`: predictions, as bytes of the case's type
  std::vector<int64_t> ids;
  std::vector<float> upstream;
  PatchInput input;
};

size_t bytes_of(PatchType type) { return type == PatchType::kFloat32 ? 4 : 2; }

double number_at(const std::vector<uint8_t>& bytes, PatchType type, int64_t i) {
  if (type == PatchType::kFloat32)
    return double(cuda::load_float(reinterpret_cast<const float*>(bytes.data()) + i));
  return double(cuda::load_float(reinterpret_cast<const cuda::Bfloat16*>(bytes.data()) + i));
}

Input make_input(const PatchCase& one, int64_t clips, Fill fill, unsigned seed) {
  std::mt19937 random(seed);
  Input in;
  in.video.resize(size_t(clips * kTokens * 3 * kGrid.channel_values()));
  for (uint8_t& x : in.video)
    x = uint8_t(fill == Fill::kNoise ? random() : fill == Fill::kEven ? 77 : 250 + random() % 2);
  std::vector<int64_t> tokens(kTokens);
  for (int64_t i = 0; i < kTokens; ++i) tokens[size_t(i)] = i;
  for (int64_t clip = 0; clip < clips; ++clip) {
    std::shuffle(tokens.begin(), tokens.end(), random);
    in.ids.insert(in.ids.end(), tokens.begin(), tokens.begin() + one.kept);
  }
  in.input = {in.video.data(), in.ids.data(), clips, one.kept, kGrid};
  const int64_t values = in.input.patches() * in.input.patch_values();
  in.said.resize(size_t(values) * bytes_of(one.type));
  for (int64_t i = 0; i < values; ++i) {
    const float value = float(random() % 20001) / 5000 - 2;
    if (one.type == PatchType::kFloat32)
      cuda::store_float(value, reinterpret_cast<float*>(in.said.data()) + i);
    else
      cuda::store_float(value, reinterpret_cast<cuda::Bfloat16*>(in.said.data()) + i);
  }
  for (int64_t i = 0; i < in.input.patches(); ++i)
    in.upstream.push_back(float(random() % 20001) / 10000 - 1);
  return in;
}

// How many numbers a case makes, and their type.
int64_t output_values(const PatchCase& one, const PatchInput& in) {
  return one.kernel == Kernel::kErrors ? in.patches() : in.patches() * in.patch_values();
}
PatchType output_type(const PatchCase& one) {
  return one.kernel == Kernel::kErrors ? PatchType::kFloat32 : one.type;
}

// The definition, in float64: level (channel, pixel) of a patch, from its coordinates.
class Definition {
 public:
  Definition(const PatchInput& in, int64_t patch)
      : in_(in), clip_(patch / in.kept), token_(in.ids[patch]) {
    for (int64_t c = 0; c < 3; ++c) {
      double sum = 0, squares = 0;
      const int64_t n = in.grid.channel_values();
      for (int64_t i = 0; i < n; ++i) sum += level(c, i);
      mean_[c] = sum / double(n);
      for (int64_t i = 0; i < n; ++i) squares += std::pow(level(c, i) - mean_[c], 2);
      deviation_[c] = std::sqrt(squares / double(n - 1));
    }
  }

  double normalised(int64_t channel, int64_t i) const {
    constexpr float kMean[] = {0.485f, 0.456f, 0.406f}, kDeviation[] = {0.229f, 0.224f, 0.225f};
    return (level(channel, i) - double(kMean[channel])) / double(kDeviation[channel]);
  }
  double target(PatchTarget unit, int64_t i) const {
    const int64_t channel = i % 3, pixel = i / 3;
    if (unit == PatchTarget::kUnit) return level(channel, pixel);
    if (unit == PatchTarget::kImageNet) return normalised(channel, pixel);
    return (level(channel, pixel) - mean_[channel]) / (deviation_[channel] + 1e-6);
  }

 private:
  double level(int64_t channel, int64_t i) const {
    const cuda::PatchGrid& g = in_.grid;
    const int64_t p = g.patch_size, spatial = g.rows * g.columns;
    const int64_t frame = token_ / spatial * g.tubelet_size + i / (p * p);
    const int64_t y = token_ % spatial / g.columns * p + i % (p * p) / p;
    const int64_t x = token_ % g.columns * p + i % p;
    const int64_t frames = g.times * g.tubelet_size, width = g.columns * p, height = g.rows * p;
    return in_.video[(((clip_ * 3 + channel) * frames + frame) * height + y) * width + x] / 255.0;
  }

  const PatchInput& in_;
  int64_t clip_, token_;
  double mean_[3], deviation_[3];
};

// The largest difference of `out` from the definition, of the numbers of each patch relative to the
// largest of them; where that is small, relative to one (gradients always are small).
double largest_error(const PatchCase& one, const Input& in, const std::vector<uint8_t>& out) {
  const int64_t values = in.input.patch_values(), n = kGrid.channel_values();
  double largest = 0;
  for (int64_t patch = 0; patch < in.input.patches(); ++patch) {
    const Definition definition(in.input, patch);
    double error = 0, scale = one.kernel == Kernel::kGradient ? 1e-9 : 1, sum = 0;
    for (int64_t i = 0; i < values; ++i) {
      const int64_t at = patch * values + i;
      double truth = one.kernel == Kernel::kPatches ? definition.normalised(i / n, i % n)
                                                    : definition.target(one.unit, i);
      if (one.kernel == Kernel::kErrors) {
        sum += std::pow(number_at(in.said, one.type, at) - truth, 2);
        continue;
      }
      if (one.kernel == Kernel::kGradient)
        truth = (number_at(in.said, one.type, at) - truth) * 2 / double(values) *
                double(in.upstream[size_t(patch)]);
      scale = std::max(scale, std::abs(truth));
      error = std::max(error, std::abs(number_at(out, one.type, at) - truth));
    }
    if (one.kernel == Kernel::kErrors) {
      scale = std::max(scale, sum / double(values));
      error = std::abs(number_at(out, PatchType::kFloat32, patch) - sum / double(values));
    }
    largest = std::max(largest, error / scale);
  }
  return largest;
}

void run_reference(const PatchCase& one, const Input& in, void* out) {
  namespace reference = cuda::reference;
  switch (one.kernel) {
    case Kernel::kPatches:
      return reference::take_patches(in.input, one.type, out);
    case Kernel::kTargets:
      return reference::take_targets(in.input, one.unit, one.type, out);
    case Kernel::kErrors:
      return reference::target_errors(in.input, one.unit, one.type, in.said.data(),
                                      static_cast<float*>(out));
    case Kernel::kGradient:
      return reference::target_errors_backward(in.input, one.unit, one.type, in.said.data(),
                                               in.upstream.data(), out);
  }
}

// The memory of one run, on the device.
struct OnDevice {
  OnDevice(const PatchCase& one, const Input& in, const cuda::Stream& stream)
      : video(cuda::to_device(in.video, stream)),
        ids(cuda::to_device(in.ids, stream)),
        said(cuda::to_device(in.said, stream)),
        upstream(cuda::to_device(in.upstream, stream)),
        out(stream.device(), size_t(output_values(one, in.input)) * bytes_of(output_type(one)),
            "the output of a benchmark"),
        input(in.input) {
    input.video = video.data();
    input.ids = reinterpret_cast<const int64_t*>(ids.data());
  }

  void run(const PatchCase& one, const cuda::Stream& stream) const {
    const auto* above = reinterpret_cast<const float*>(upstream.data());
    switch (one.kernel) {
      case Kernel::kPatches:
        return cuda::take_patches(input, one.type, out.data(), stream);
      case Kernel::kTargets:
        return cuda::take_targets(input, one.unit, one.type, out.data(), stream);
      case Kernel::kErrors:
        return cuda::target_errors(input, one.unit, one.type, said.data(),
                                   reinterpret_cast<float*>(out.data()), stream);
      case Kernel::kGradient:
        return cuda::target_errors_backward(input, one.unit, one.type, said.data(), above,
                                            out.data(), stream);
    }
  }

  cuda::DeviceBuffer video, ids, said, upstream, out;
  PatchInput input;
};

Comparison compare(const PatchCase& one, Fill fill, unsigned seed, const cuda::Stream* stream) {
  const Input in = make_input(one, 2, fill, seed);
  std::vector<uint8_t> reference(size_t(output_values(one, in.input)) * bytes_of(output_type(one)));
  run_reference(one, in, reference.data());
  Comparison c;
  c.values = output_values(one, in.input);
  c.largest_error = largest_error(one, in, reference);
  if (stream == nullptr) return c;
  const OnDevice there(one, in, *stream);
  there.run(one, *stream);
  const auto seen = cuda::to_host<uint8_t>(there.out, *stream);
  c.was_run = true;
  for (size_t i = 0; i < seen.size(); ++i) c.differing_bytes += seen[i] != reference[i];
  return c;
}

constexpr int64_t kTimedClips = 32;

}  // namespace

std::vector<KernelCase> patch_cases(unsigned seed) {
  std::vector<KernelCase> cases;
  for (const PatchCase& one : kCases) {
    KernelCase made;
    made.name = one.name;
    // Float32 rounds a few times, and bfloat16 once more: by half of its last bit, and what float32
    // adds.
    made.tolerance = output_type(one) == PatchType::kFloat32 ? 2e-6 : 1.01 / 256;
    for (const auto& [name, fill] :
         {std::pair{"noise", Fill::kNoise}, {"even", Fill::kEven}, {"nearly", Fill::kNearlyEven}})
      made.inputs.emplace_back(name, [&one, fill, seed](const cuda::Stream* stream) {
        return compare(one, fill, seed, stream);
      });
    made.prepare_timing = [&one, seed](const cuda::Stream& stream) -> std::function<void()> {
      const auto there =
          std::make_shared<OnDevice>(one, make_input(one, kTimedClips, Fill::kNoise, seed), stream);
      return [there, &one, &stream] { there->run(one, stream); };
    };
    const int64_t values = kTimedClips * one.kept * 3 * kGrid.channel_values();
    const auto size = int64_t(bytes_of(one.type));
    const bool reads = one.kernel == Kernel::kErrors || one.kernel == Kernel::kGradient;
    made.timed_bytes =
        values + (reads ? values * size : 0) + (one.kernel != Kernel::kErrors ? values * size : 0);
    cases.push_back(std::move(made));
  }
  return cases;
}

}  // namespace keiko::bench
