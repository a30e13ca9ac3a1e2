#include "train/compute.h"

#include <malloc.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <spdlog/spdlog.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/headeronly/version.h>

#include <algorithm>

#include "base/error.h"
#include "base/machine.h"
#include "cuda/gpu_decoding.h"
#include "gpu/accelerator.h"

namespace keiko::train {

ThreadShare share_threads(const Recipe& recipe, const dist::LaunchEnvironment& launch, int cores,
                          bool on_gpu) {
  const int mine = std::max(1, cores / int(launch.local_world_size));
  ThreadShare share;
  share.compute = int(recipe.train.threads);
  share.decode = int(recipe.loader.threads);
  if (on_gpu && share.compute == 0) share.compute = mine > 4 ? 2 : 1;
  if (share.decode == 0)
    share.decode = share.compute > 0 ? std::max(1, mine - share.compute) : std::max(1, mine / 4);
  if (share.compute == 0) share.compute = std::max(1, mine - share.decode);
  return share;
}

std::string resolve_device(const Recipe& recipe) {
  if (recipe.train.device == "cpu") return "cpu";
  const std::string why = gpu::why_no_accelerator();
  if (why.empty()) return "cuda";
  if (recipe.train.device == "cuda")
    fail(
        ErrorKind::kUsage,
        "train.device = cuda, but there is no GPU to compute on: {}; set it to auto or cpu, or see "
        "`keiko doctor`",
        why);
  return "cpu";
}

std::string choose_decode(const Recipe& recipe, bool on_gpu,
                          const std::function<std::string()>& why_no_nvdec) {
  if (recipe.loader.decode == "cpu") return "cpu";
  const bool must = recipe.loader.decode == "nvdec";
  if (!on_gpu) {
    if (must)
      fail(ErrorKind::kUsage,
           "loader.decode = nvdec decodes on the GPU that computes, but this run computes on the "
           "CPU ({}); set train.device to cuda where there is a GPU, or loader.decode to auto or "
           "cpu",
           recipe.train.device == "cpu" ? "train.device = cpu" : gpu::why_no_accelerator());
    return "cpu";
  }
  std::string why;
  if (const std::string key = data::pixel_augmentation(recipe.augment); !key.empty()) {
    if (must)
      fail(ErrorKind::kUsage,
           "loader.decode = nvdec, but {} changes pixels in host memory; leave it out, or set "
           "loader.decode to auto or cpu",
           key);
    why = fmt::format("{} changes pixels in host memory", key);
  } else {
    why = why_no_nvdec();
    if (must && !why.empty())
      fail(ErrorKind::kUsage,
           "loader.decode = nvdec: {}; set it to auto or cpu, or see `keiko doctor`", why);
  }
  if (why.empty()) return "nvdec";
  spdlog::info("videos are decoded on the CPU and not on the GPU: {}", why);
  return "cpu";
}

std::string resolve_decode(const Recipe& recipe, bool on_gpu) {
  return choose_decode(recipe, on_gpu, cuda::GpuDecoding::why_not);
}

void set_up_compute(const Recipe& recipe, const ThreadShare& threads, bool is_shared_out,
                    at::DeviceType device) {
  // Every step takes the same memory as the last one. Left alone, glibc gives large blocks back to
  // the system and gets them again as zeroed pages: 150,000 page faults a step of VideoMAE-S.
  if (!is_shared_out) {
    ::mallopt(M_MMAP_MAX, 0);
    ::mallopt(M_TRIM_THRESHOLD, -1);
  } else {
    // Who shares weights out is short of memory: vectors that come and go in every step leave holes
    // that fit nothing else, so the system gets them back (VideoMAE-B on two ranks held 0.5 GB
    // more).
    ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  }
  at::set_num_threads(threads.compute);
  const bool on_cpu = device == at::kCPU;
  at::globalContext().setDeterministicAlgorithms(
      on_cpu ? recipe.train.deterministic : recipe.train.gpu_deterministic, /*warn_only=*/!on_cpu);
  torch::autograd::AnomalyMode::set_enabled(recipe.debug.anomaly);
}

AutocastGuard::AutocastGuard(bool on, at::DeviceType device) : on_(on), device_(device) {
  if (!on_) return;
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, at::kBFloat16);
  at::autocast::increment_nesting();
}

AutocastGuard::~AutocastGuard() {
  if (!on_) return;
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, false);
}

std::string resolve_precision(const Recipe& recipe, at::DeviceType device) {
  if (recipe.precision != "auto") return recipe.precision;
  if (device != at::kCPU) return "bf16";
  return processor_has_fast_bf16() ? "bf16" : "fp32";
}

nlohmann::ordered_json computing_conditions(const Recipe& recipe, const ThreadShare& threads,
                                            int64_t world_size, const std::string& gpu,
                                            const std::string& decoded_on) {
  return {{"threads", threads.compute},
          {"processor", processor_name()},
          {"gpu", gpu},
          {"loader.decode", decoded_on},
          {"precision", resolve_precision(recipe, gpu.empty() ? at::kCPU : at::kCUDA)},
          {"keiko", KEIKO_VERSION},
          {"world_size", world_size},
          {"micro_batch_size", recipe.micro_batch_size},
          {"reduce.bucket_mb", recipe.reduce.bucket_mb},
          {"activation_checkpointing", recipe.train.activation_checkpointing},
          {"train.shard", recipe.train.shard},
          {"train.shard_group", recipe.train.shard_group},
          {"torch", TORCH_VERSION}};
}

void warn_of_other_conditions(const nlohmann::json& state, const nlohmann::ordered_json& now) {
  for (const auto& [key, value] : now.items())
    if (state.contains(key) && state[key] != value)
      spdlog::warn(
          "resumed with another {} ({} then, {} now): same samples, weights equal up to rounding, "
          "not bit-exact",
          key, state[key].dump(), value.dump());
}

}  // namespace keiko::train
