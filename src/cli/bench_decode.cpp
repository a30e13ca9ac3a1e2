#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "base/env.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/bench.h"
#include "cli/bench_decoder.h"
#include "media/clip_decoder.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kFailed = -1;  // in the place of a clip's seconds

struct DecodeBench {
  std::string plan, list = "media", media, decoder = "cpu", json;
  int threads = 1, repeat = 5, views = 1;
  media::LoopFilter loop_filter = media::LoopFilter::kExact;
  bool passes_on_stdin = false;
};

struct PlannedVideo {
  std::string file;  // as the plan calls it
  std::string path;
  media::PacketTable table;
  double index_s = 0;
  std::string error;  // why it cannot be used; empty otherwise
};

struct PlannedClip {
  size_t video;
  std::vector<int64_t> frames;
  media::CropRect crop;
  int size;
  // What was seen, over all passes.
  uint64_t checksum = 0;
  double best_s = 1e30, best_bound_s = 1e30;
  media::ClipCost cost;  // in the newest pass
  std::string error;     // why it failed; empty otherwise
};

enum class PassKind { kPixels, kBound };  // kBound decodes the same packets and makes no pixels

struct Pass {
  PassKind kind;
  double seconds = 0, cpu_s = 0;
  std::vector<double> clip_s;  // in the plan's order, kFailed for clips that failed
};

struct Plan {
  std::vector<PlannedVideo> videos;
  std::vector<PlannedClip> clips;
  double index_s = 0, index_cpu_s = 0;  // the clock's time and the processor's
};

PlannedVideo index_video(std::string file, std::string path) {
  PlannedVideo video{.file = std::move(file), .path = std::move(path)};
  const double start = monotonic_s();
  try {
    video.table = media::scan_video(video.path);
  } catch (const Error& e) {
    video.error = e.what();
  }
  video.index_s = monotonic_s() - start;
  return video;
}

// The folder of the plan's videos: --media, or the plan's own `folder`, which lies beside it.
std::string folder_of(const DecodeBench& o, const nlohmann::json& plan) {
  if (!o.media.empty()) return o.media;
  if (plan.contains("folder") && plan["folder"].is_string())
    return (std::filesystem::path(o.plan).parent_path() / plan["folder"].get<std::string>())
        .string();
  fail(ErrorKind::kUsage, "{} names no `folder` of its videos; give --media", o.plan);
}

Plan read_plan(const DecodeBench& o) {
  const auto json = nlohmann::json::parse(read_text(default_env(), o.plan), nullptr, false);
  if (!json.is_object() || !json.contains(o.list) || !json[o.list].is_array())
    fail(ErrorKind::kUsage, "{}: not a plan of clips (no list `{}`)", o.plan, o.list);
  const std::string folder = folder_of(o, json);
  Plan plan;
  std::map<std::string, size_t> known;
  for (const auto& entry : json[o.list]) {
    PlannedClip clip;
    std::string file;
    try {
      file = entry.at("file").get<std::string>();
      clip.frames = entry.at("frames").get<std::vector<int64_t>>();
      clip.size = entry.at("size").get<int>();
    } catch (const nlohmann::json::exception&) {
      fail(ErrorKind::kUsage, "{}: entry {} of `{}` is not {{file, frames, size}}", o.plan,
           plan.clips.size(), o.list);
    }
    if (clip.size < 1 || clip.size > 8192 || clip.frames.empty())
      fail(ErrorKind::kUsage, "{}: a clip of {} has size {} and {} frames", o.plan, file, clip.size,
           clip.frames.size());
    const auto [at, is_new] = known.try_emplace(file, plan.videos.size());
    if (is_new) {
      const double cpu = process_cpu_s();
      plan.videos.push_back(index_video(file, folder + "/" + file));
      plan.index_cpu_s += process_cpu_s() - cpu;
      plan.index_s += plan.videos.back().index_s;
    }
    clip.video = at->second;
    const PlannedVideo& video = plan.videos[clip.video];
    clip.error = video.error;
    const auto& stream = video.table.stream;
    const double w = stream.display_width(), h = stream.display_height(), side = std::min(w, h);
    clip.crop = {(w - side) / 2, (h - side) / 2, side, side};
    plan.clips.push_back(std::move(clip));
  }
  if (plan.clips.empty()) fail(ErrorKind::kUsage, "{}: the plan has no clips", o.plan);
  return plan;
}

// Decodes a plan's clips in shuffled order, each alone, as the threads of a loader would: every
// thread keeps its decoder from pass to pass.
class DecodeRun {
 public:
  DecodeRun(Plan plan, const DecodeBench& o)
      : plan_(std::move(plan)), views_(o.views), loop_filter_(o.loop_filter) {
    if (o.decoder == "nvdec") gpu_ = std::make_unique<cuda::GpuDecoding>(default_env(), 0);
    for (int t = 0; t < o.threads; ++t)
      decoders_.push_back(gpu_ ? make_gpu_bench_decoder(*gpu_) : make_cpu_bench_decoder());
  }

  const Plan& plan() const { return plan_; }
  const cuda::GpuDecoding* gpu() const { return gpu_.get(); }  // null: the CPU decodes

  // Decodes every clip once. A clip whose content is bad is marked as failed, and left out of later
  // passes; any other error is thrown.
  Pass pass(PassKind kind) {
    Pass pass{.kind = kind};
    pass.clip_s.assign(plan_.clips.size(), kFailed);
    std::vector<size_t> sequence(plan_.clips.size());
    for (size_t i = 0; i < sequence.size(); ++i) sequence[i] = i;
    std::shuffle(sequence.begin(), sequence.end(), order_);
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
    auto work = [&](BenchDecoder& decoder) {
      try {
        for (size_t i = next++; i < sequence.size(); i = next++)
          pass.clip_s[sequence[i]] = decode(decoder, plan_.clips[sequence[i]], kind);
      } catch (...) {
        std::lock_guard lock(mutex);
        error = std::current_exception();
        next = sequence.size();
      }
    };
    const double start = monotonic_s(), cpu = process_cpu_s();
    std::vector<std::thread> threads;
    for (size_t t = 1; t < decoders_.size(); ++t)
      threads.emplace_back([&, t] { work(*decoders_[t]); });
    work(*decoders_[0]);
    for (auto& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
    pass.seconds = monotonic_s() - start;
    pass.cpu_s = process_cpu_s() - cpu;
    return pass;
  }

  // Forgets the times, after a warm-up. Pixels on a GPU are not looked at any more from then on:
  // copying them to the host would cost more than making them.
  void forget_times() {
    looks_at_pixels_ = gpu_ == nullptr;
    for (PlannedClip& clip : plan_.clips) clip.best_s = clip.best_bound_s = 1e30;
  }

 private:
  // Seconds for one clip, which no other thread touches meanwhile.
  double decode(BenchDecoder& decoder, PlannedClip& clip, PassKind kind) {
    if (!clip.error.empty()) return kFailed;
    const PlannedVideo& video = plan_.videos[clip.video];
    const int64_t channel = int64_t(clip.frames.size()) * clip.size * clip.size;
    const size_t bytes = size_t(3 * channel) * size_t(views_);
    uint8_t* out = decoder.room(bytes);
    std::vector<media::ClipView> more;  // each a little further in
    for (int v = 1; v < views_; ++v) {
      const double inset = 0.2 * v / views_ * clip.crop.width;
      more.push_back({{clip.crop.x + inset, clip.crop.y + inset, clip.crop.width - 2 * inset,
                       clip.crop.height - 2 * inset},
                      v % 2 == 1,
                      out + 3 * channel * v});
    }
    media::ClipRequest request;
    request.table = &video.table;
    request.path = &video.path;
    request.frames = clip.frames;
    request.crop = clip.crop;
    request.size = clip.size;
    request.out = out;
    request.channel_stride = channel;
    request.more_views = more;
    request.loop_filter = loop_filter_;
    const double start = monotonic_s();
    try {
      if (kind == PassKind::kBound) {
        decoder.decode_frames(request);
        const double seconds = monotonic_s() - start;
        clip.best_bound_s = std::min(clip.best_bound_s, seconds);
        return seconds;
      }
      clip.cost = decoder.decode(request);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) throw;
      clip.error = e.what();
      return kFailed;
    }
    const double seconds = monotonic_s() - start;
    clip.best_s = std::min(clip.best_s, seconds);
    if (!looks_at_pixels_) return seconds;
    const uint64_t checksum = decoder.checksum(bytes);
    if (clip.checksum != 0 && clip.checksum != checksum)
      fail(ErrorKind::kInternal, "{}: two passes gave different pixels", video.file);
    clip.checksum = checksum;
    return seconds;
  }

  Plan plan_;
  std::unique_ptr<cuda::GpuDecoding> gpu_;
  std::vector<std::unique_ptr<BenchDecoder>> decoders_;
  int views_;
  media::LoopFilter loop_filter_;
  bool looks_at_pixels_ = true;
  std::mt19937 order_{7};
};

ordered_json spread(std::vector<double> values) {
  if (values.empty()) return nullptr;
  std::sort(values.begin(), values.end());
  return {{"min", values.front()}, {"median", values[values.size() / 2]}, {"max", values.back()}};
}

// Sums over clips that did not fail.
struct Sums {
  int64_t clips = 0, failed = 0, frames = 0;
  double best_s = 0, best_bound_s = 0;
  media::ClipCost cost;

  void add(const PlannedClip& clip) {
    if (!clip.error.empty()) {
      ++failed;
      return;
    }
    ++clips;
    frames += int64_t(clip.frames.size());
    best_s += clip.best_s;
    best_bound_s += clip.best_bound_s;
    cost.packets_decoded += clip.cost.packets_decoded;
    cost.packets_dropped += clip.cost.packets_dropped;
    cost.reads += clip.cost.reads;
    cost.opens += clip.cost.opens;
    cost.bytes += clip.cost.bytes;
    cost.decode_s += clip.cost.decode_s;
    cost.convert_s += clip.cost.convert_s;
  }
};

// null where nothing was measured: JSON knows no infinity.
ordered_json ratio(double a, double b) {
  if (b <= 0 || b > 1e29 || a > 1e29) return nullptr;
  return a / b;
}

ordered_json figures(const DecodeBench& o, const DecodeRun& run, const std::vector<Pass>& passes) {
  const Plan& plan = run.plan();
  Sums total;
  std::vector<Sums> by_video(plan.videos.size());
  ordered_json failures = ordered_json::array(), files = ordered_json::array();
  std::string joined;
  for (const PlannedClip& clip : plan.clips) {
    total.add(clip);
    by_video[clip.video].add(clip);
    joined += hex64(clip.checksum);
    if (!clip.error.empty())
      failures.push_back({{"file", plan.videos[clip.video].file}, {"error", clip.error}});
  }
  for (size_t v = 0; v < plan.videos.size(); ++v) {
    const Sums& s = by_video[v];
    const double n = double(s.clips);
    files.push_back({{"file", plan.videos[v].file},
                     {"clips", s.clips},
                     {"failed", s.failed},
                     {"best_ms_per_clip", ratio(1000 * s.best_s, n)},
                     {"bound_ms_per_clip", ratio(1000 * s.best_bound_s, n)},
                     {"packets_decoded_per_clip", ratio(double(s.cost.packets_decoded), n)},
                     {"packets_dropped_per_clip", ratio(double(s.cost.packets_dropped), n)},
                     {"index_ms", 1000 * plan.videos[v].index_s}});
  }
  const double n = double(total.clips);
  std::vector<double> rates, bound_rates;
  double cpu_s = 1e30;
  for (const Pass& pass : passes) {
    (pass.kind == PassKind::kBound ? bound_rates : rates).push_back(n / pass.seconds);
    if (pass.kind == PassKind::kPixels) cpu_s = std::min(cpu_s, pass.cpu_s);
  }
  const ordered_json rate = spread(rates), bound = spread(bound_rates);
  const auto best = [](const ordered_json& of) {
    return of.is_null() ? 0.0 : of["max"].get<double>();
  };
  const double decoded = double(total.cost.packets_decoded);
  ordered_json j = {
      {"plan", o.plan},
      {"decoder", o.decoder},
      {"clips", plan.clips.size()},
      {"failed", total.failed},
      {"videos", plan.videos.size()},
      {"threads", o.threads},
      {"views", o.views},
      {"exact", o.loop_filter == media::LoopFilter::kExact},
      {"repeat", rates.size()},
      {"processor", processor_name()},
      {"clips_per_s", rate},
      {"clips_per_s_by_pass", rates},
      {"rate_best_of_each_clip", ratio(n, total.best_s)},
      {"cpu_ms_per_clip", ratio(1000 * cpu_s, n)},
      {"bound_clips_per_s", bound},
      // Of the fastest pass: frames that came out as pixels, and pictures that the decoder took
      // for them; the bound's are what decoding alone gave.
      {"frames_per_s", ratio(double(total.frames) * best(rate), n)},
      {"decoded_frames_per_s", ratio(decoded * best(rate), n)},
      {"bound_decoded_frames_per_s", ratio(decoded * best(bound), n)},
      {"bound_rate_best_of_each_clip", ratio(n, total.best_bound_s)},
      {"packets_decoded_per_clip", ratio(double(total.cost.packets_decoded), n)},
      {"packets_dropped_per_clip", ratio(double(total.cost.packets_dropped), n)},
      {"reads_per_clip", ratio(double(total.cost.reads), n)},
      {"opens_per_clip", ratio(double(total.cost.opens), n)},
      {"bytes_per_clip", ratio(double(total.cost.bytes), n)},
      {"decode_ms_per_clip", ratio(1000 * total.cost.decode_s, n)},
      {"convert_ms_per_clip", ratio(1000 * total.cost.convert_s, n)},
      {"index_s", plan.index_s},
      {"index_cpu_s", plan.index_cpu_s},
      // An epoch takes one clip of every video.
      {"index_ms_per_clip_of_one_epoch", 1000 * plan.index_s / double(plan.videos.size())},
      {"checksum", hex64(xxh3(std::string_view(joined)))},
      {"files", files},
      {"failures", failures}};
  if (run.gpu()) j["gpu"] = gpu_figures(*run.gpu());
  return j;
}

void print_line(const ordered_json& line) {
  std::printf("%s\n", json_text(line).c_str());
  std::fflush(stdout);
}

// Runs a pass for each line of stdin, so that another program can take turns with this one.
void take_orders(DecodeRun& run, std::vector<Pass>& passes) {
  const Plan& plan = run.plan();
  print_line({{"ready", true},
              {"clips", plan.clips.size()},
              {"videos", plan.videos.size()},
              {"index_s", plan.index_s}});
  for (std::string line; std::getline(std::cin, line);) {
    if (line != "pass" && line != "bound")
      fail(ErrorKind::kUsage, "stdin: a line reads `{}`; `pass` and `bound` are known", line);
    passes.push_back(run.pass(line == "pass" ? PassKind::kPixels : PassKind::kBound));
    const Pass& pass = passes.back();
    print_line({{"kind", line},
                {"seconds", pass.seconds},
                {"cpu_s", pass.cpu_s},
                {"per_clip_s", pass.clip_s}});
  }
}

int bench_decode(const DecodeBench& o) {
  DecodeRun run(read_plan(o), o);
  run.pass(PassKind::kPixels);                 // warm-up, not counted
  if (run.gpu()) run.pass(PassKind::kPixels);  // are the pixels the same again?
  run.forget_times();
  std::vector<Pass> passes;
  if (o.passes_on_stdin) {
    take_orders(run, passes);
    // stdout has held the passes; the figures go to a file or nowhere.
    if (!o.json.empty()) write_figures(figures(o, run, passes), o.json);
    return 0;
  }
  report::Progress progress("bench decode");
  for (int i = 0; i < o.repeat; ++i) {
    passes.push_back(run.pass(PassKind::kPixels));
    passes.push_back(run.pass(PassKind::kBound));
    progress.update(i + 1, o.repeat);
  }
  progress.finish("");
  write_figures(figures(o, run, passes), o.json);
  return 0;
}

}  // namespace

void add_bench_decode(CLI::App& bench, Action& action) {
  auto* c = bench.add_subcommand(
      "decode", "Clips a second from video files to pixels, beside the bound of decoding alone");
  auto o = std::make_shared<DecodeBench>();
  c->add_option("--plan", o->plan, "JSON with a list of {file, frames, size}")
      ->required()
      ->check(CLI::ExistingFile);
  c->add_option("--list", o->list, "Which list of the plan")->capture_default_str();
  c->add_option("--media", o->media,
                "Folder of the files; otherwise the plan's `folder`, beside the plan")
      ->check(CLI::ExistingDirectory);
  c->add_option("--decoder", o->decoder,
                "cpu, or nvdec: the first GPU, with pixels in its memory. Use as many threads as "
                "`keiko doctor` counts engines, or more")
      ->check(CLI::IsMember({"cpu", "nvdec"}))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "Clips decoded side by side")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  auto* repeat = c->add_option("--repeat", o->repeat, "Passes over the plan")
                     ->check(CLI::Range(1, 1000))
                     ->capture_default_str();
  c->add_option("--views", o->views, "Crops made of each clip's frames, decoded once")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  static const std::map<std::string, media::LoopFilter> kLoopFilters = {
      {"exact", media::LoopFilter::kExact},
      {"skip-unreferenced", media::LoopFilter::kSkipUnreferenced},
      {"skip", media::LoopFilter::kSkip}};
  c->add_option("--loop-filter", o->loop_filter,
                "exact; or what leaving deblocking out would save: skip-unreferenced, skip. Other "
                "pixels come out: for measuring only")
      ->transform(CLI::CheckedTransformer(kLoopFilters, CLI::ignore_case));
  c->add_flag("--passes-on-stdin", o->passes_on_stdin,
              "Wait for lines on stdin: `pass` runs one pass, `bound` one without pixels; each is "
              "answered by a line of JSON {kind, seconds, cpu_s, per_clip_s}, -1 for a failed "
              "clip. The first line says {ready, clips, videos, index_s}. The end of stdin ends it")
      ->excludes(repeat);
  c->add_option("--json", o->json, "Write the figures to this file instead of stdout");
  c->callback([o, &action] { action = [o] { return bench_decode(*o); }; });
}

}  // namespace keiko::cli
