// What program and module agree on: the module's name, and the one function that it gives.

#pragma once

namespace keiko::gpu {

class Accelerator;

constexpr const char* kModuleName = "keiko_gpu.so";
constexpr const char* kMakeAccelerator = "keiko_make_accelerator";
// Makes the accelerator of GPU `index`, which the caller owns. Throws Error.
using MakeAccelerator = Accelerator* (*)(int index);

}  // namespace keiko::gpu
