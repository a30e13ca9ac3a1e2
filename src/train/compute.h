// How this process computes: threads, precision, and kernels that do not depend on timing.

#pragma once
#include <c10/core/DeviceType.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "dist/launch.h"
#include "train/recipe.h"

namespace keiko::train {

// Threads of this rank: compute and decode together stay within the cores it may use.
struct ThreadShare {
  int compute = 1, decode = 1;
};
// With `on_gpu` computing needs few, and decoding gets the rest.
ThreadShare share_threads(const Recipe& recipe, const dist::LaunchEnvironment& launch, int cores,
                          bool on_gpu = false);

// "cpu", or "cuda" where the recipe asks for a GPU or leaves it open and there is one. Throws
// Error(kUsage) when it asks for one and there is none, saying why.
std::string resolve_device(const Recipe& recipe);

// Where videos are decoded: "nvdec", on the GPU that computes, or "cpu". `on_gpu`: a GPU computes.
// loader.decode = auto takes the GPU where one computes, NVDEC works and the recipe changes no
// finished pixels, which only the host does. Throws Error(kUsage) when nvdec is asked for and one
// of these does not hold, saying which.
std::string resolve_decode(const Recipe& recipe, bool on_gpu);
// The same with `why_no_nvdec` for an answer of this machine (empty: NVDEC works), asked only where
// it matters.
std::string choose_decode(const Recipe& recipe, bool on_gpu,
                          const std::function<std::string()>& why_no_nvdec);

// Sets torch's compute threads (never the environment's) and deterministic kernels. Call before any
// tensor work; process-wide.
// `is_shared_out`: ranks keep parts (train.shard), for lack of memory.
void set_up_compute(const Recipe& recipe, const ThreadShare& threads, bool is_shared_out = false,
                    at::DeviceType device = at::kCPU);

// bf16 autocast of a device's operations on this thread while it lives; nothing when `on` is false.
class AutocastGuard {
 public:
  explicit AutocastGuard(bool on, at::DeviceType device = at::kCPU);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  bool on_;
  at::DeviceType device_;
};

// "fp32", "bf16" or "float64" for this machine's processor, or for a GPU.
std::string resolve_precision(const Recipe& recipe, at::DeviceType device = at::kCPU);

// What bit-exact resume depends on besides the recipe's defining keys; part of state.json.
// `gpu`: its name; empty: none. `decoded_on`: as resolve_decode() says.
nlohmann::ordered_json computing_conditions(const Recipe& recipe, const ThreadShare& threads,
                                            int64_t world_size, const std::string& gpu = "",
                                            const std::string& decoded_on = "cpu");
// Logs what differs between a checkpoint's state and the conditions `now`.
void warn_of_other_conditions(const nlohmann::json& state, const nlohmann::ordered_json& now);

}  // namespace keiko::train
