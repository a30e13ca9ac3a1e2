#include "data/pack.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include <spdlog/spdlog.h>
#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "data/pack_measure.h"
#include "dist/launch.h"
#include "media/quality.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

struct PackArguments : data::PackOptions {
  std::string purpose = "speed";
  std::optional<int> short_side, crf, gop;
  std::optional<double> fps;
  bool keep_rate = false, json = false, check = false;
  int64_t measure = 16;
};

// Options that the purpose has no use for are refused, not ignored.
data::PackChoice choice_of(const PackArguments& a) {
  data::PackChoice c = data::default_choice(a.purpose);
  if (c.is_exact() && (a.short_side || a.crf || a.gop || a.fps))
    fail(ErrorKind::kUsage,
         "--for exact copies the packets as they are: --short-side, --fps, --crf and --gop need "
         "--for speed or --for size");
  if (a.keep_rate && a.fps && *a.fps > 0)
    fail(ErrorKind::kUsage, "--keep-rate keeps every frame, and --fps {} does not; choose one",
         *a.fps);
  c.short_side = a.short_side.value_or(c.short_side);
  c.frames_per_second = a.fps.value_or(c.frames_per_second);
  c.crf = a.crf.value_or(c.crf);
  c.gop = a.gop.value_or(c.gop);
  c.shard_bytes = a.choice.shard_bytes;
  return c;
}

// "3 of 4 temporal phases are gone", and what else is not in the pack any more.
std::vector<std::string> losses(const data::PackTotals& t, const data::PackChoice& choice,
                                const std::optional<data::PackGain>& gain) {
  std::vector<std::string> lost;
  const auto items = [&](int64_t n) {
    return fmt::format("{} of {} items", report::count_text(n), report::count_text(t.items));
  };
  if (t.fewer_frames > 0) {
    const double ratio = double(t.source_frames) / double(t.packed_frames);
    std::string phases = std::abs(ratio - std::round(ratio)) < 0.02 * ratio && ratio > 1.5
                             ? fmt::format("{:.0f} of {:.0f} temporal phases are gone",
                                           std::round(ratio) - 1, std::round(ratio))
                             : fmt::format("{:.0f}% of the frames are gone", 100 - 100 / ratio);
    phases += fmt::format(" (in {})", items(t.fewer_frames));
    phases += gain ? fmt::format("; a clip at stride {} of the source is now stride {}",
                                 gain->stride_of_source, gain->stride_of_pack)
                   : fmt::format("; strides count frames {:.2f} times as far apart", ratio);
    lost.push_back(phases);
  }
  if (t.resized > 0)
    lost.push_back(fmt::format("detail above a short side of {} pixels (in {})", choice.short_side,
                               items(t.resized)));
  if (t.fewer_bits > 0)
    lost.push_back(fmt::format("more than 8 bits a sample (in {})", items(t.fewer_bits)));
  if (t.less_chroma > 0)
    lost.push_back(fmt::format("chroma finer than 4:2:0 (in {})", items(t.less_chroma)));
  return lost;
}

std::string limit_of(const data::ClipSpeed& s) {
  return fmt::format("{} ({:.1f} ms of decoding, {:.1f} ms of pixel conversion a clip)",
                     s.decode_ms > s.convert_ms ? "decoding" : "pixel conversion", s.decode_ms,
                     s.convert_ms);
}

ordered_json to_json(const data::ClipSpeed& s) {
  return {{"clips_per_s", s.clips_per_s},
          {"decode_ms_per_clip", s.decode_ms},
          {"convert_ms_per_clip", s.convert_ms},
          {"packets_decoded_per_clip", s.packets},
          {"bytes_per_clip", s.bytes}};
}

void print_json(const PackArguments& a, const data::PackReport& r,
                const std::optional<data::PackGain>& gain, double seconds) {
  const data::PackTotals& t = r.totals;
  const data::PackQuality& q = t.quality;
  ordered_json j = {
      {"pack", a.out},
      {"for", a.choice.purpose},
      {"whole", r.is_whole},
      {"items", t.items},
      {"reused_items", r.reused_items},
      {"shards", r.shards},
      {"source_bytes", t.source_bytes},
      {"source_video_bytes", t.source_video_bytes},
      {"packed_bytes", t.packed_bytes},
      {"shard_bytes", r.shard_bytes},
      {"ratio", double(t.packed_bytes) / double(std::max<int64_t>(1, t.source_bytes))},
      {"source_frames", t.source_frames},
      {"packed_frames", t.packed_frames},
      {"turned_items", t.turned},
      {"compared_items", q.items},
      {"compared_frames", q.frames}};
  if (q.frames > 0) {
    const double mse = q.squared_error / double(q.frames);
    // JSON has no infinity: equal pictures have no PSNR.
    j["psnr_y"] = mse > 0 ? ordered_json(media::psnr_of(mse)) : ordered_json(nullptr);
    j["ssim_y"] = q.similarity / double(q.frames);
  }
  if (gain)
    j["measured"] = {{"clips", gain->clips},
                     {"stride_of_source", gain->stride_of_source},
                     {"stride_of_pack", gain->stride_of_pack},
                     {"source", to_json(gain->source)},
                     {"pack", to_json(gain->pack)},
                     {"speedup", gain->pack.clips_per_s / gain->source.clips_per_s}};
  j["lost"] = losses(t, a.choice, gain);
  j["skipped"] = ordered_json::array();
  for (const auto& s : r.skipped)
    j["skipped"].push_back({{"item", s.item}, {"path", s.path}, {"reason", s.reason}});
  j["seconds"] = seconds;
  std::printf("%s\n", json_text(j, 2).c_str());
}

void print_table(const PackArguments& a, const data::PackReport& r,
                 const std::optional<data::PackGain>& gain, double seconds) {
  using report::bytes_text;
  using report::count_text;
  const data::PackTotals& t = r.totals;
  const data::PackQuality& q = t.quality;
  const auto row = [](const char* name, const std::string& text) {
    spdlog::info("  {:<12} {}", name, text);
  };
  spdlog::info("{}: packed for {} in {}", a.out, a.choice.purpose, report::duration_text(seconds));
  row("items", fmt::format("{} in {} shards ({} made earlier, {} left out)", count_text(t.items),
                           count_text(r.shards), count_text(r.reused_items), r.skipped.size()));
  row("bytes",
      fmt::format("{} of files ({} of it video) -> {}, {:.2f} times",
                  bytes_text(double(t.source_bytes)), bytes_text(double(t.source_video_bytes)),
                  bytes_text(double(t.packed_bytes)),
                  double(t.packed_bytes) / double(std::max<int64_t>(1, t.source_bytes))));
  row("frames", fmt::format("{} -> {}", count_text(t.source_frames), count_text(t.packed_frames)));
  if (a.choice.is_exact()) {
    row("quality", fmt::format("the source's packets; {} frames of {} items compared bit by bit",
                               count_text(q.frames), count_text(q.items)));
  } else if (q.frames > 0) {
    row("quality",
        fmt::format("PSNR {:.2f} dB, SSIM {:.4f} (luma, against the source scaled the "
                    "same way; {} frames spread over {} items)",
                    media::psnr_of(q.squared_error / double(q.frames)),
                    q.similarity / double(q.frames), count_text(q.frames), count_text(q.items)));
  }
  if (gain) {
    row("clips/s", fmt::format("{:.1f} -> {:.1f}, {:.1f} times ({} clips of 16 frames at stride "
                               "{} -> {}, to 224 pixels, one thread)",
                               gain->source.clips_per_s, gain->pack.clips_per_s,
                               gain->pack.clips_per_s / gain->source.clips_per_s, gain->clips,
                               gain->stride_of_source, gain->stride_of_pack));
    row("limited by", limit_of(gain->pack));
  }
  if (t.turned > 0)
    row("rotation", fmt::format("written, not applied, in {} items", count_text(t.turned)));
  const auto lost = losses(t, a.choice, gain);
  if (lost.empty())
    row("lost", a.choice.is_exact() ? "nothing" : "no frame: every temporal phase is there");
  for (const std::string& what : lost) row(&what == &lost.front() ? "lost" : "", what);
}

int check(const PackArguments& a) {
  report::Progress progress("pack --check");
  const auto damage =
      data::check_pack(default_env(), a.out, std::max(1, a.threads),
                       [&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.finish("");
  for (const std::string& what : damage) spdlog::error("keiko pack: {}", what);
  if (a.json) {
    const ordered_json j = {{"pack", a.out}, {"damaged", damage}};
    std::printf("%s\n", json_text(j, 2).c_str());
  }
  if (!damage.empty())
    fail(ErrorKind::kData, "{}: {} members are damaged; copy the pack again, or make it again",
         a.out, damage.size());
  spdlog::info("{}: every member is as it was written", a.out);
  return 0;
}

int pack(PackArguments& a) {
  if (a.check) return check(a);
  if (a.catalogue.empty())
    fail(ErrorKind::kUsage, "give a catalogue, such as keiko pack train.kix --out {}", a.out);
  a.choice = choice_of(a);
  const dist::LaunchEnvironment launch = dist::read_rank_and_world_size();
  if (a.threads == 0)
    a.threads = std::max(1, usable_cores() / int(std::max<int64_t>(1, launch.local_world_size)));
  a.rank = launch.rank;
  a.world_size = launch.world_size;
  const double start = monotonic_s();
  report::Progress progress("pack");
  const data::PackReport r = data::make_pack(
      default_env(), a, [&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.finish("");
  for (const auto& skipped : r.skipped)
    spdlog::warn("item {}: {}. Left out; {} of {} items so far.", skipped.item, skipped.reason,
                 &skipped - r.skipped.data() + 1, r.totals.items + int64_t(r.skipped.size()));
  if (!r.is_whole) {
    spdlog::info("rank {}: {} shards, {} items, in {}; rank 0 makes pack.kix", a.rank, r.shards,
                 r.totals.items, report::duration_text(monotonic_s() - start));
    return 0;
  }
  std::optional<data::PackGain> gain;
  if (a.measure > 0)
    gain = data::measure_gain(default_env(), *data::Catalogue::open(default_env(), a.catalogue),
                              *data::Catalogue::open(default_env(), a.out), a.measure);
  if (a.json) print_json(a, r, gain, monotonic_s() - start);
  print_table(a, r, gain, monotonic_s() - start);
  return 0;
}

}  // namespace

void add_pack(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "pack", "Re-encode or cut a catalogue's videos into shards made for fast random clips");
  auto o = std::make_shared<PackArguments>();
  o->threads = 0;
  c->add_option("catalogue", o->catalogue, "NAME.kix, or the folder of a pack");
  c->add_option("--out", o->out, "Folder of the pack; the same command goes on where it stopped")
      ->required();
  c->add_option("--for", o->purpose,
                "speed: cheap to decode; size: fewest bytes; exact: the packets as they are")
      ->check(CLI::IsMember({"speed", "size", "exact"}))
      ->capture_default_str();
  c->add_option("--short-side", o->short_side,
                "Shrink to this many pixels, even; 0 keeps the size [256]")
      ->check(CLI::Range(0, 16384));
  c->add_option("--fps", o->fps, "Frames a second, at most; 0 keeps every frame [0]")
      ->check(CLI::Range(0.0, 1000.0));
  c->add_flag("--keep-rate", o->keep_rate,
              "Keep every frame, and so every temporal phase (as --fps 0)");
  c->add_option("--crf", o->crf, "x264 quality, 0 best [speed 18, size 23]")
      ->check(CLI::Range(0, 51));
  c->add_option("--gop", o->gop, "Frames from key frame to key frame, at most [speed 16, size 48]")
      ->check(CLI::Range(1, 1000));
  c->add_option("--shard-bytes", o->choice.shard_bytes,
                "Bytes of source video for a shard, about (1GiB, 200MB ...)")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  c->add_option("--threads", o->threads,
                "Items in work side by side; 0 is the cores over the ranks of this machine")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  c->add_option("--max-bad", o->max_bad, "Share of the items that may be left out as damaged")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  c->add_option("--measure", o->measure, "Clips to measure before and after; 0: none")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  c->add_option(
       "--timeout", o->timeout_s,
       "Seconds without a sign of life of a rank that work is missing of, before giving up")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  c->add_flag("--restart", o->restart, "Throw away what --out holds and begin anew");
  c->add_flag("--check", o->check, "Compare a finished pack with its checksums; makes nothing");
  c->add_flag("--json", o->json, "Print the result as JSON on stdout");
  c->callback([o, &action] { action = [o] { return pack(*o); }; });
}

}  // namespace keiko::cli
