#include "cli/doctor_gpu.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <filesystem>

#include "base/error.h"
#include "cuda/nvdec_cuda_device.h"
#include "cuda/nvdec_driver.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

std::string decodes(const cuda::NvidiaDriver& driver, int gpu) {
  std::string text;
  int engines = 0;
  for (const char* codec : {"h264", "hevc", "vp9", "av1"})
    for (const cuda::Chroma chroma : {cuda::Chroma::k420, cuda::Chroma::k422, cuda::Chroma::k444}) {
      std::string depths;
      cuda::NvdecCaps largest;
      for (int depth : {8, 10, 12}) {
        const cuda::NvdecCaps caps = driver.caps(gpu, codec, chroma, depth);
        if (!caps.is_supported) continue;
        depths += fmt::format("{}{}", depths.empty() ? "" : "/", depth);
        if (caps.max_width > largest.max_width) largest = caps;
      }
      if (depths.empty()) continue;
      engines = std::max(engines, largest.engines);
      text += fmt::format("{}{} {} {} bits to {}x{}", text.empty() ? "" : ", ", codec,
                          cuda::chroma_name(chroma), depths, largest.max_width, largest.max_height);
    }
  if (text.empty()) return "nothing: this GPU has no video decoder, videos are decoded on the CPU";
  return engines > 0 ? fmt::format("{}; {} engines", text, engines) : text;
}

// The folder of the libtorch_cpu.so that this process runs with; empty when there is none.
std::filesystem::path torch_folder() {
  std::filesystem::path folder;
  ::dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* found) {
        const std::filesystem::path path(library->dlpi_name == nullptr ? "" : library->dlpi_name);
        if (path.filename() != "libtorch_cpu.so") return 0;
        *static_cast<std::filesystem::path*>(found) = path.parent_path();
        return 1;
      },
      &folder);
  return folder;
}

std::string torch_text(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / "libtorch_cuda.so", ignored))
    return "has CUDA (libtorch_cuda.so is beside it)";
  return fmt::format(
      "no CUDA: {} has no libtorch_cuda.so; set KEIKO_TORCH to a torch with CUDA and "
      "build again",
      folder.empty() ? "torch's folder" : folder.string());
}

// NCCL as torch's wheel brings it, or the system's.
std::string nccl_text(const std::filesystem::path& torch) {
  void* library = nullptr;
  for (const std::string& path : {(torch / "../../nvidia/nccl/lib/libnccl.so.2").string(),
                                  (torch / "libnccl.so.2").string(), std::string("libnccl.so.2")})
    if (library == nullptr) library = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr)
    return "none: libnccl.so.2 is neither beside torch nor in the system; several GPUs need it "
           "(pip install nvidia-nccl-cu13, or NVIDIA's package libnccl2)";
  using GetVersion = int (*)(int*);
  const auto get = reinterpret_cast<GetVersion>(::dlsym(library, "ncclGetVersion"));
  int version = 0;
  if (get == nullptr || get(&version) != 0) return "there, but it does not tell its version";
  // 22809 is 2.28.9 (NCCL_VERSION in nccl.h, from 2.9 on).
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

nlohmann::ordered_json examine_gpus() {
  nlohmann::ordered_json j;
  const cuda::NvidiaDriver driver;
  if (driver.why_no_gpu().empty())
    j["driver"] = fmt::format("knows CUDA up to {}.{}", driver.cuda_version() / 1000,
                              driver.cuda_version() / 10 % 100);
  else
    j["driver"] = "none: " + driver.why_no_gpu();
  j["nvdec"] =
      driver.why_no_nvdec().empty() ? "there (libnvcuvid.so.1)" : "none: " + driver.why_no_nvdec();
  for (int g = 0; g < driver.gpu_count(); ++g) {
    const std::string name = fmt::format("gpu {}", g);
    try {
      const cuda::Gpu gpu = driver.gpu(g);
      j[name] =
          fmt::format("{}, compute capability {}.{}, {} of {} free", gpu.name, gpu.capability_major,
                      gpu.capability_minor, report::bytes_text(double(gpu.free_bytes)),
                      report::bytes_text(double(gpu.total_bytes)));
      if (driver.why_no_nvdec().empty()) j[name + " decodes"] = decodes(driver, g);
    } catch (const Error& e) {
      j[name] = e.what();
    }
  }
  const std::vector<std::string> codecs = cuda::nvdec_codecs_of_ffmpeg();
  j["ffmpeg"] = codecs.empty()
                    ? "built without NVDEC: videos are decoded on the CPU; set KEIKO_FFMPEG "
                      "to one that has it (--enable-nvdec) and build again"
                    : fmt::format("can decode {} with NVDEC", fmt::join(codecs, ", "));
  const std::filesystem::path torch = torch_folder();
  j["torch"] = torch_text(torch);
  j["nccl"] = nccl_text(torch);
  return j;
}

}  // namespace keiko::cli
