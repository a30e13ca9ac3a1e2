#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/recipe_arguments.h"
#include "data/loader.h"
#include "report/progress.h"
#include "train/trainer.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

double cpu_s() {
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

ordered_json spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {{"min", values.front()}, {"median", values[values.size() / 2]}, {"max", values.back()}};
}

void emit(const ordered_json& j, const std::string& path) {
  if (path.empty()) {
    std::printf("%s\n", json_text(j, 2).c_str());
    return;
  }
  publish(default_env(), path, json_text(j, 2) + "\n");
}

struct PlannedClip {
  size_t video;
  std::string file;
  std::vector<int64_t> frames;
  media::CropRect crop;
  int size;
  uint64_t checksum = 0;
  double best_s = 1e30, best_bound_s = 1e30;
};

struct DecodeBench {
  std::string plan, media, json;
  int threads = 1, repeat = 5;
};

std::vector<PlannedClip> read_plan(const DecodeBench& o, std::vector<data::Video>& videos) {
  const auto plan = nlohmann::json::parse(read_text(default_env(), o.plan), nullptr, false);
  if (!plan.is_object() || !plan.contains("media"))
    fail(ErrorKind::kUsage, "{}: not a plan of clips (no list `media`)", o.plan);
  std::map<std::string, size_t> known;
  std::vector<PlannedClip> clips;
  for (const auto& entry : plan["media"]) {
    PlannedClip clip;
    clip.file = entry.at("file");
    clip.frames = entry.at("frames").get<std::vector<int64_t>>();
    clip.size = entry.at("size");
    if (clip.size < 1 || clip.size > 8192 || clip.frames.empty())
      fail(ErrorKind::kUsage, "{}: a clip of {} has size {} and {} frames", o.plan, clip.file,
           clip.size, clip.frames.size());
    const std::string path = o.media + "/" + clip.file;
    if (!known.contains(path)) {
      known[path] = videos.size();
      data::Video video;
      video.file.path = path;
      video.table = media::scan_video(path);
      videos.push_back(std::move(video));
    }
    clip.video = known[path];
    const auto& stream = videos[clip.video].table.stream;
    const double w = stream.display_width(), h = stream.display_height(), side = std::min(w, h);
    clip.crop = {(w - side) / 2, (h - side) / 2, side, side};
    clips.push_back(std::move(clip));
  }
  if (clips.empty()) fail(ErrorKind::kUsage, "{}: the plan has no clips", o.plan);
  return clips;
}

int bench_decode(const DecodeBench& o) {
  std::vector<data::Video> videos;
  const double index_start = monotonic_s();
  std::vector<PlannedClip> clips = read_plan(o, videos);
  const double index_s = monotonic_s() - index_start;

  std::vector<double> pass_rates, bound_rates, pass_cpu_ms;
  media::ClipCost total;
  std::mutex mutex;
  std::mt19937 order(7);
  // One pass decodes every clip once, in shuffled order; bound passes decode without making pixels.
  auto pass = [&](bool bound) {
    std::vector<size_t> sequence(clips.size());
    for (size_t i = 0; i < sequence.size(); ++i) sequence[i] = i;
    std::shuffle(sequence.begin(), sequence.end(), order);
    std::atomic<size_t> next{0};
    media::ClipCost cost;
    auto work = [&] {
      media::CpuClipDecoder decoder(default_env());
      std::vector<uint8_t> out;
      while (true) {
        const size_t i = next++;
        if (i >= sequence.size()) return;
        PlannedClip& clip = clips[sequence[i]];
        const data::Video& video = videos[clip.video];
        const double start = monotonic_s();
        media::ClipCost one;
        if (bound) {
          one = decoder.decode_frames(video.table, video.file.path, clip.frames,
                                      [](int64_t, const AVFrame&) {});
        } else {
          const int64_t channel = int64_t(clip.frames.size()) * clip.size * clip.size;
          out.assign(size_t(3 * channel), 0);
          media::ClipRequest request;
          request.table = &video.table;
          request.path = &video.file.path;
          request.frames = clip.frames;
          request.crop = clip.crop;
          request.size = clip.size;
          request.out = out.data();
          request.channel_stride = channel;
          one = decoder.decode(request);
        }
        const double seconds = monotonic_s() - start;
        const uint64_t checksum = bound ? 0 : xxh3(std::span<const uint8_t>(out));
        std::lock_guard lock(mutex);
        if (bound) {
          clip.best_bound_s = std::min(clip.best_bound_s, seconds);
          continue;
        }
        clip.best_s = std::min(clip.best_s, seconds);
        if (clip.checksum != 0 && clip.checksum != checksum)
          fail(ErrorKind::kInternal, "{}: two passes gave different pixels", clip.file);
        clip.checksum = checksum;
        cost.packets_decoded += one.packets_decoded;
        cost.packets_dropped += one.packets_dropped;
        cost.reads += one.reads;
        cost.opens += one.opens;
        cost.bytes += one.bytes;
        cost.decode_s += one.decode_s;
        cost.convert_s += one.convert_s;
      }
    };
    std::exception_ptr error;
    auto guarded = [&] {
      try {
        work();
      } catch (...) {
        std::lock_guard lock(mutex);
        error = std::current_exception();
        next = sequence.size();
      }
    };
    const double start = monotonic_s(), cpu = cpu_s();
    std::vector<std::thread> threads;
    for (int t = 1; t < o.threads; ++t) threads.emplace_back(guarded);
    guarded();
    for (auto& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
    const double rate = double(clips.size()) / (monotonic_s() - start);
    (bound ? bound_rates : pass_rates).push_back(rate);
    if (!bound) {
      pass_cpu_ms.push_back(1000 * (cpu_s() - cpu) / double(clips.size()));
      total = cost;
    }
  };
  report::Progress progress("bench decode");
  pass(false);  // warm-up, not counted
  pass_rates.clear();
  pass_cpu_ms.clear();
  for (int i = 0; i < o.repeat; ++i) {
    pass(false);
    pass(true);
    progress.update(i + 1, o.repeat);
  }
  progress.finish("");
  double best = 0, best_bound = 0;
  std::string joined;
  for (const PlannedClip& clip : clips) {
    best += clip.best_s;
    best_bound += clip.best_bound_s;
    joined += hex64(clip.checksum);
  }
  const double n = double(clips.size());
  ordered_json j = {{"plan", o.plan},
                    {"clips", clips.size()},
                    {"videos", videos.size()},
                    {"threads", o.threads},
                    {"repeat", o.repeat},
                    {"processor", processor_name()},
                    {"clips_per_s", spread(pass_rates)},
                    {"clips_per_s_by_pass", pass_rates},
                    {"rate_best_of_each_clip", n / best},
                    {"cpu_ms_per_clip", *std::min_element(pass_cpu_ms.begin(), pass_cpu_ms.end())},
                    {"bound_clips_per_s", spread(bound_rates)},
                    {"bound_rate_best_of_each_clip", n / best_bound},
                    {"packets_decoded_per_clip", double(total.packets_decoded) / n},
                    {"packets_dropped_per_clip", double(total.packets_dropped) / n},
                    {"reads_per_clip", double(total.reads) / n},
                    {"opens_per_clip", double(total.opens) / n},
                    {"bytes_per_clip", double(total.bytes) / n},
                    {"decode_ms_per_clip", 1000 * total.decode_s / n},
                    {"convert_ms_per_clip", 1000 * total.convert_s / n},
                    {"index_s", index_s},
                    {"checksum", hex64(xxh3(std::string_view(joined)))}};
  emit(j, o.json);
  return 0;
}

struct LoaderBench : RecipeArguments {
  int64_t steps = 50;
  std::string json;
};

int bench_loader(const LoaderBench& o) {
  const LoadedRecipe loaded = load(o);
  const train::Recipe& r = loaded.recipe;
  const data::Dataset dataset = open_dataset(r, false);
  const int threads = r.loader.threads > 0 ? int(r.loader.threads) : usable_cores();
  data::Loader loader(
      default_env(), dataset,
      [&](int64_t step) {
        return step < o.steps ? data::Slice{step * r.batch_size, (step + 1) * r.batch_size}
                              : data::Slice{};
      },
      0, true, threads, int(r.loader.prefetch),
      [] { return std::make_unique<media::CpuClipDecoder>(default_env()); });
  report::Progress progress("bench loader");
  const double start = monotonic_s(), cpu = cpu_s();
  media::ClipCost cost;
  int64_t bad = 0;
  ordered_json memory = ordered_json::array();
  for (int64_t step = 0; step < o.steps; ++step) {
    const data::Batch& batch = loader.next();
    cost.packets_decoded += batch.cost.packets_decoded;
    cost.packets_dropped += batch.cost.packets_dropped;
    cost.reads += batch.cost.reads;
    cost.bytes += batch.cost.bytes;
    cost.decode_s += batch.cost.decode_s;
    cost.convert_s += batch.cost.convert_s;
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
      {"threads", threads},
      {"processor", processor_name()},
      {"clips_per_s", clips / seconds},
      {"frames_per_s", clips * double(r.clip.num_frames) / seconds},
      {"cpu_ms_per_clip", 1000 * (cpu_s() - cpu) / clips},
      {"decode_ms_per_clip", 1000 * cost.decode_s / clips},
      {"convert_ms_per_clip", 1000 * cost.convert_s / clips},
      {"packets_decoded_per_clip", double(cost.packets_decoded) / clips},
      {"packets_dropped_per_clip", double(cost.packets_dropped) / clips},
      {"reads_per_clip", double(cost.reads) / clips},
      {"bytes_per_clip", double(cost.bytes) / clips},
      {"bad_samples", bad},
      {"limited_by", cost.decode_s > cost.convert_s ? "decoding" : "pixel conversion"},
      {"memory", memory}};
  emit(j, o.json);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("bench",
                               "Measure a part by itself; figures as JSON, with what limits them");
  c->require_subcommand(1);
  auto* d = c->add_subcommand(
      "decode", "Clips a second from video files to pixels, beside the bound of decoding alone");
  auto decode = std::make_shared<DecodeBench>();
  d->add_option("--plan", decode->plan, "JSON with a list `media` of {file, frames, size}")
      ->required()
      ->check(CLI::ExistingFile);
  d->add_option("--media", decode->media, "Folder of the files")
      ->required()
      ->check(CLI::ExistingDirectory);
  d->add_option("--threads", decode->threads, "Clips decoded side by side")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  d->add_option("--repeat", decode->repeat, "Passes over the plan")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  d->add_option("--json", decode->json, "Write the figures to this file instead of stdout");
  d->callback([decode, &action] { action = [decode] { return bench_decode(*decode); }; });
  auto* l = c->add_subcommand("loader",
                              "Clips a second and memory of a recipe's loader, without training");
  auto loader = std::make_shared<LoaderBench>();
  loader->add_to(*l, true);
  l->add_option("--steps", loader->steps, "Batches to load")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  l->add_option("--json", loader->json, "Write the figures to this file instead of stdout");
  l->callback([loader, &action] { action = [loader] { return bench_loader(*loader); }; });
}

}  // namespace keiko::cli
