#include "gpu/accelerator.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "base/error.h"
#include "gpu/module.h"

namespace keiko::gpu {
namespace {

// Beside the program in a build, in lib/keiko where it is installed.
std::vector<std::string> places() {
  std::error_code unreadable;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", unreadable).parent_path();
  return {(program / kModuleName).string(),
          (program.parent_path() / "lib" / "keiko" / kModuleName).string()};
}

struct Module {
  MakeAccelerator make = nullptr;
  std::string problem;  // why `make` is null
};

Module load() {
  if (!cuda::is_built())
    return {nullptr,
            "this Keiko was built without CUDA; build it where nvcc is, or with -DKEIKO_CUDA=ON to "
            "hear what is missing"};
  std::string tried;
  for (const std::string& place : places()) {
    if (::access(place.c_str(), R_OK) != 0) {
      tried += fmt::format("{}{}", tried.empty() ? "" : " and ", place);
      continue;
    }
    // Its symbols are nobody else's, but those of torch's libraries are everybody's.
    void* handle = ::dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!handle)
      return {nullptr, fmt::format("{}: {}; it needs the torch that Keiko was built with, with its "
                                   "CUDA libraries",
                                   place, ::dlerror())};
    auto* make = reinterpret_cast<MakeAccelerator>(::dlsym(handle, kMakeAccelerator));
    if (!make) return {nullptr, fmt::format("{}: {}", place, ::dlerror())};
    return {make, ""};
  }
  return {nullptr, fmt::format("the module of torch's CUDA part is neither at {}; build Keiko with "
                               "a torch that has CUDA, where nccl.h is",
                               tried)};
}

const Module& module() {
  static const Module loaded = load();
  return loaded;
}

}  // namespace

std::string why_no_module() { return module().problem; }

std::string why_no_accelerator() {
  // The driver first: it costs less than the module.
  if (cuda::is_built() && cuda::device_count() == 0) return cuda::why_no_device();
  return module().problem;
}

std::unique_ptr<Accelerator> load_accelerator(int index) {
  const std::string why = why_no_accelerator();
  if (!why.empty()) fail(ErrorKind::kUsage, "no GPU to compute on: {}", why);
  if (index < 0 || index >= cuda::device_count())
    fail(ErrorKind::kUsage,
         "GPU {} is asked for, and this process may use {}; start as many ranks on a machine as it "
         "has GPUs, or see CUDA_VISIBLE_DEVICES",
         index, cuda::device_count());
  return std::unique_ptr<Accelerator>(module().make(index));
}

}  // namespace keiko::gpu
