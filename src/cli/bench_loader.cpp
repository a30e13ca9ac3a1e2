#include <algorithm>
#include <memory>

#include "base/env.h"
#include "base/machine.h"
#include "cli/bench.h"
#include "cli/bench_decoder.h"
#include "cli/recipe_arguments.h"
#include "cuda/stream.h"
#include "data/loader.h"
#include "report/progress.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

struct LoaderBench : RecipeArguments {
  int64_t steps = 50;
  std::string json;
};

int bench_loader(const LoaderBench& o) {
  const LoadedRecipe loaded = load(o);
  const train::Recipe& r = loaded.recipe;
  const data::Dataset dataset = open_dataset(r, false);
  const int threads = r.loader.threads > 0 ? int(r.loader.threads) : usable_cores();
  std::unique_ptr<cuda::GpuDecoding> gpu;
  std::unique_ptr<cuda::Stream> reader;
  data::MakeDecoder make_decoder = [] {
    return std::make_unique<media::CpuClipDecoder>(default_env());
  };
  media::MakeBuffer make_buffer;
  // As `train` would, whose GPU this stands for.
  if (train::resolve_decode(r, train::resolve_device(r) == "cuda") == "nvdec") {
    gpu = std::make_unique<cuda::GpuDecoding>(default_env(), 0);
    reader = std::make_unique<cuda::Stream>(gpu->gpu());
    make_decoder = [&] { return gpu->make_decoder(); };
    make_buffer = [&] { return gpu->make_slot([&] { return reader->handle(); }); };
  }
  data::Loader loader(
      default_env(), dataset,
      [&](int64_t step) {
        return step < o.steps ? data::Slice{step * r.batch_size, (step + 1) * r.batch_size}
                              : data::Slice{};
      },
      0, true, threads, int(r.loader.prefetch), make_decoder, make_buffer);
  report::Progress progress("bench loader");
  const double start = monotonic_s(), cpu = process_cpu_s();
  media::ClipCost cost;
  double augment_s = 0, waited_s = 0;
  int64_t bad = 0;
  ordered_json memory = ordered_json::array();
  for (int64_t step = 0; step < o.steps; ++step) {
    const data::Batch& batch = loader.next();
    waited_s += batch.memory->waited_s();  // on a GPU until the batch is there
    cost.packets_decoded += batch.cost.packets_decoded;
    cost.packets_dropped += batch.cost.packets_dropped;
    cost.reads += batch.cost.reads;
    cost.bytes += batch.cost.bytes;
    cost.decode_s += batch.cost.decode_s;
    cost.convert_s += batch.cost.convert_s;
    augment_s += batch.augment_s;
    bad += int64_t(batch.bad.size());
    if (step % std::max<int64_t>(1, o.steps / 20) == 0)
      memory.push_back(
          {{"clips", (step + 1) * r.batch_size}, {"resident_bytes", resident_bytes()}});
    progress.update(step + 1, o.steps);
  }
  progress.finish("");
  const double seconds = monotonic_s() - start, clips = double(o.steps * r.batch_size);
  ordered_json j = {
      {"clips", o.steps * r.batch_size},
      {"decoder", gpu ? "nvdec" : "cpu"},
      {"threads", threads},
      {"processor", processor_name()},
      {"clips_per_s", clips / seconds},
      {"frames_per_s", clips * double(r.clip.num_frames) / seconds},
      {"cpu_ms_per_clip", 1000 * (process_cpu_s() - cpu) / clips},
      {"decode_ms_per_clip", 1000 * cost.decode_s / clips},
      {"convert_ms_per_clip", 1000 * cost.convert_s / clips},
      {"augment_ms_per_clip", 1000 * augment_s / clips},
      {"packets_decoded_per_clip", double(cost.packets_decoded) / clips},
      {"packets_dropped_per_clip", double(cost.packets_dropped) / clips},
      {"reads_per_clip", double(cost.reads) / clips},
      {"bytes_per_clip", double(cost.bytes) / clips},
      {"bad_samples", bad},
      {"limited_by", augment_s > std::max(cost.decode_s, cost.convert_s) ? "augmentation"
                     : cost.decode_s > cost.convert_s                    ? "decoding"
                                                                         : "pixel conversion"},
      {"memory", memory}};
  if (gpu) {
    j["gpu"] = gpu_figures(*gpu);
    j["gpu"]["waited_s"] = waited_s;  // by the device's clock, of a reader that does nothing else
  }
  write_figures(j, o.json);
  return 0;
}

}  // namespace

void add_bench_loader(CLI::App& bench, Action& action) {
  auto* l = bench.add_subcommand(
      "loader", "Clips a second and memory of a recipe's loader, without training");
  auto loader = std::make_shared<LoaderBench>();
  loader->add_to(*l, true);
  l->add_option("--steps", loader->steps, "Batches to load")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  l->add_option("--json", loader->json, "Write the figures to this file instead of stdout");
  l->callback([loader, &action] { action = [loader] { return bench_loader(*loader); }; });
}

}  // namespace keiko::cli
