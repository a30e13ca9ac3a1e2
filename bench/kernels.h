// What bench/kernels.cpp asks of each kernel.

#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/stream.h"

namespace keiko::bench {

// One input: the reference beside the definition, and the kernel beside the reference.
struct Comparison {
  int64_t values = 0;
  double largest_error = 0;     // of the reference from float64: levels of pixels, or numbers
  double share_off = 0;         // of the values, that are not the definition's; pixels only
  bool was_run = false;         // the kernel, on a device
  int64_t differing_bytes = 0;  // of the kernel's output from the reference's
};

struct KernelCase {
  std::string name;
  double tolerance = 0;        // for largest_error
  double share_tolerance = 0;  // for share_off
  // Name of the input, and its comparison; on `stream` too unless that is nullptr.
  std::vector<std::pair<std::string, std::function<Comparison(const cuda::Stream* stream)>>> inputs;
  // Brings the input of the timed runs to the device; the result adds one run to the stream.
  std::function<std::function<void()>(const cuda::Stream& stream)> prepare_timing;
  int64_t timed_bytes = 0;  // that a run must read and write at least
};

std::vector<KernelCase> surface_cases(unsigned seed);
std::vector<KernelCase> patch_cases(unsigned seed);

}  // namespace keiko::bench
