#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "data/index.h"
#include "dist/launch.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

struct IndexArguments : data::IndexOptions {
  bool json = false;
};

nlohmann::ordered_json describe(const IndexArguments& o, const data::IndexReport& r,
                                double seconds) {
  nlohmann::ordered_json j = {{"catalogue", o.out},
                              {"videos", r.videos},
                              {"items", r.items},
                              {"reused", r.reused},
                              {"frames", r.frames},
                              {"bytes", r.bytes},
                              {"direct_read", r.direct_read},
                              {"class_names", r.class_names},
                              {"missing", r.missing},
                              {"duplicate_paths", r.duplicate_paths},
                              {"duplicate_contents", r.duplicate_contents},
                              {"seconds", seconds}};
  j["skipped"] = nlohmann::json::array();
  for (const auto& s : r.skipped) j["skipped"].push_back({{"path", s.path}, {"reason", s.reason}});
  j["first_duplicate_paths"] = r.first_duplicate_paths;
  j["first_duplicate_contents"] = nlohmann::json::array();
  for (const auto& [path, before] : r.first_duplicate_contents)
    j["first_duplicate_contents"].push_back({path, before});
  return j;
}

void log_strange(const data::IndexReport& r) {
  for (const auto& skipped : r.skipped)
    spdlog::warn("{}. Skipped; {} of {} files so far.", skipped.reason,
                 &skipped - r.skipped.data() + 1, r.videos + int64_t(r.skipped.size()));
  if (r.missing > 0) spdlog::warn("{} files are missing", report::count_text(r.missing));
  if (r.duplicate_paths > 0)
    spdlog::warn("{} paths were named more than once, such as {}; each time is an item",
                 report::count_text(r.duplicate_paths), r.first_duplicate_paths[0]);
  if (r.duplicate_contents > 0)
    spdlog::warn("{} videos hold what another one holds, such as {}, the same as {}",
                 report::count_text(r.duplicate_contents), r.first_duplicate_contents[0].first,
                 r.first_duplicate_contents[0].second);
}

int run_index(const IndexArguments& o) {
  const double start = monotonic_s();
  if (o.rank != 0) spdlog::set_level(spdlog::level::err);
  report::Progress progress("index");
  const data::IndexReport r =
      data::build_catalogue(default_env(), o, [&](int64_t done, int64_t total) {
        if (o.rank == 0) progress.update(done, total);
      });
  progress.finish("");
  if (!r.is_published) return 0;
  log_strange(r);
  const double seconds = monotonic_s() - start;
  if (o.json) std::printf("%s\n", json_text(describe(o, r, seconds), 2).c_str());
  spdlog::info("{}: {} videos ({} unchanged), {} frames, {}, {} classes, {} skipped, in {:.1f} s",
               o.out, report::count_text(r.videos), report::count_text(r.reused),
               report::count_text(r.frames), report::bytes_text(double(r.bytes)),
               r.class_names.size(), r.skipped.size(), seconds);
  return 0;
}

}  // namespace

void add_index(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "index",
      "Scan videos once and write a catalogue, so that training never has to\n"
      "Several ranks share the work: torchrun --no-python --nproc-per-node 4 keiko index ...");
  auto o = std::make_shared<IndexArguments>();
  o->threads = 0;
  c->add_option("sources", o->sources,
                "Folders (a subfolder is a class), video files, or lists: .csv/.tsv with a header, "
                ".txt `path label`, .jsonl")
      ->required();
  c->add_option("--out", o->out,
                "The catalogue to write, NAME.kix; unchanged videos in it are not scanned again")
      ->required();
  c->add_flag("--verify", o->verify,
              "Decode every frame and try every shortcut; damaged videos are left out");
  c->add_option("--threads", o->threads,
                "Videos scanned side by side; 0 is the cores over the ranks of this machine")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  c->add_option("--timeout", o->timeout_s,
                "Seconds without progress after which a rank counts as dead")
      ->check(CLI::Range(1.0, 1e7))
      ->capture_default_str();
  c->add_flag("--json", o->json, "Print the result as JSON on stdout");
  c->callback([o, &action] {
    action = [o] {
      const dist::LaunchEnvironment launch = dist::read_rank_and_world_size();
      o->rank = launch.rank;
      o->world_size = launch.world_size;
      if (o->threads == 0)
        o->threads = int(std::max<int64_t>(1, usable_cores() / launch.local_world_size));
      return run_index(*o);
    };
  });
}

}  // namespace keiko::cli
