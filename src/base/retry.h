// Patience with a file system: a read that fails may only be late (a network file system, a server
// that restarts), so it is tried again a few times before it counts.

#pragma once
#include <chrono>
#include <functional>

#include "base/error.h"

namespace keiko {

// True for an error of the file system that waiting does not cure: no permission, no space, not a
// file.
bool is_lasting(const Error& e);

// Runs `work`, and again after 0.1, 0.4 and 1.6 s while it throws Error(kIo) that is not lasting;
// then throws what it threw last. `wait` sleeps that long, or returns false when nobody wants the
// result any more, which ends the trying at once.
using Wait = std::function<bool(std::chrono::milliseconds)>;
bool sleep_for(std::chrono::milliseconds time);
void try_patiently(const std::function<void()>& work, const Wait& wait = sleep_for);

}  // namespace keiko
