// How this process computes: threads, precision, and kernels that do not depend on timing.

#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "dist/launch.h"
#include "train/recipe.h"

namespace keiko::train {

// Threads of this rank: compute and decode together stay within the cores it may use.
struct ThreadShare {
  int compute = 1, decode = 1;
};
ThreadShare share_threads(const Recipe& recipe, const dist::LaunchEnvironment& launch, int cores);

// Sets torch's compute threads (never the environment's) and deterministic kernels. Call before any
// tensor work; process-wide.
void set_up_compute(const Recipe& recipe, const ThreadShare& threads);

// bf16 autocast on this thread while it lives; nothing when `on` is false.
class AutocastGuard {
 public:
  explicit AutocastGuard(bool on);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  bool on_;
};

// "fp32", "bf16" or "float64" for this machine.
std::string resolve_precision(const Recipe& recipe);

// What bit-exact resume depends on besides the recipe's defining keys; part of state.json.
nlohmann::ordered_json computing_conditions(const Recipe& recipe, const ThreadShare& threads,
                                            int64_t world_size);
// Logs what differs between a checkpoint's state and the conditions `now`.
void warn_of_other_conditions(const nlohmann::json& state, const nlohmann::ordered_json& now);

}  // namespace keiko::train
