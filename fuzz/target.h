// What every fuzz target shares: which outcomes of hostile input are fine, and where files are.
//
// Success is fine, and so is an Error that says something. Anything else (another exception, an
// Error that blames Keiko itself, a sanitizer's report) is a finding and ends the process.

#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

#include "base/error.h"

namespace keiko::fuzz {

// Runs `work`. True when it succeeded, false when it threw an Error; aborts when that Error has no
// message or says that Keiko has a bug. Other exceptions pass through, and libFuzzer reports them.
template <class Work>
bool survives(Work work) {
  try {
    work();
    return true;
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kInternal || e.what()[0] == '\0') {
      std::fprintf(stderr, "an input led to: internal error: %s\n", e.what());
      std::abort();
    }
    return false;
  }
}

// Ends the process with a sentence when something that must hold for every input does not.
inline void require(bool holds, const char* sentence) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", sentence);
  std::abort();
}

inline std::string text_of(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace keiko::fuzz
