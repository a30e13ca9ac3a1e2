#include <fmt/format.h>
#include <sys/statvfs.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/doctor_gpu.h"
#include "gpu/accelerator.h"
#include "media/ffmpeg.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

std::string version_text(unsigned version) {
  return fmt::format("{}.{}.{}", AV_VERSION_MAJOR(version), AV_VERSION_MINOR(version),
                     AV_VERSION_MICRO(version));
}

nlohmann::ordered_json examine() {
  nlohmann::ordered_json j;
  j["keiko"] = KEIKO_VERSION;
  j["host"] = host_name();
  j["processor"] = processor_name();
  j["cores"] = usable_cores();
  j["memory_bytes"] = int64_t(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  j["precision_auto"] = processor_has_fast_bf16() ? "bf16 (AVX512_BF16 or AMX found)"
                                                  : "fp32 (no AVX512_BF16 or AMX)";
  struct statvfs disk;
  if (::statvfs(".", &disk) == 0)
    j["disk_free_bytes"] = int64_t(disk.f_bavail) * int64_t(disk.f_frsize);
  j["libavformat"] = version_text(avformat_version());
  j["libavcodec"] = version_text(avcodec_version());
  j["ffmpeg_license"] = avcodec_license();
  for (const char* name : {"h264", "hevc", "vp8", "vp9", "av1", "mpeg2video", "mpeg4"}) {
    const AVCodecDescriptor* d = avcodec_descriptor_get_by_name(name);
    const AVCodec* codec = d == nullptr ? nullptr : avcodec_find_decoder(d->id);
    j["decoders"][name] =
        codec == nullptr ? "MISSING: such videos are skipped by index" : codec->name;
  }
  j["encoder_libx264"] = avcodec_find_encoder_by_name("libx264") != nullptr
                             ? "there"
                             : "MISSING: keiko synth needs it";
  j["torch"] = TORCH_VERSION;
  const std::string why = gpu::why_no_accelerator();
  j["cuda"] = why.empty() ? "training can run on the GPU (train.device)"
                          : "training runs on the CPU: " + why;
  j["gpu"] = examine_gpus();
  j["ranks"] = why.empty() ? "Gloo over TCP, NCCL between GPUs" : "Gloo over TCP";
  return j;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("doctor", "Say what this machine has, and what is missing for what");
  auto json = std::make_shared<bool>(false);
  c->add_flag("--json", *json, "Print JSON");
  c->callback([json, &action] {
    action = [json] {
      const auto j = examine();
      if (*json) {
        std::printf("%s\n", json_text(j, 2).c_str());
        return 0;
      }
      for (const auto& [key, value] : j.items()) {
        if (value.is_object()) {
          for (const auto& [name, text] : value.items())
            std::printf("%-18s %s: %s\n", key.c_str(), name.c_str(),
                        text.get<std::string>().c_str());
          continue;
        }
        std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (key.find("bytes") != std::string::npos) text = report::bytes_text(value.get<double>());
        const std::string name = key.substr(0, key.find("_bytes"));
        std::printf("%-18s %s\n", name.c_str(), text.c_str());
      }
      return 0;
    };
  });
}

}  // namespace keiko::cli
