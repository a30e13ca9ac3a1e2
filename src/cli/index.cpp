#include "data/index.h"

#include <nlohmann/json.hpp>

#include <spdlog/spdlog.h>
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "report/progress.h"

namespace keiko::cli {

void add_index(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "index", "Scan videos once and write a catalogue, so that training never has to");
  struct Options : data::IndexOptions {
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  o->threads = usable_cores();
  c->add_option("sources", o->sources,
                "Folders (a subfolder is a class), video files, or lists: .csv/.tsv with a header, "
                ".txt `path label`, .jsonl")
      ->required();
  c->add_option("--out", o->out,
                "The catalogue to write, NAME.kix; unchanged videos in it are not scanned again")
      ->required();
  c->add_flag("--verify", o->verify, "Decode every frame; damaged videos are left out");
  c->add_option("--threads", o->threads, "Videos scanned side by side")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  c->add_flag("--json", o->json, "Print the result as JSON on stdout");
  c->callback([o, &action] {
    action = [o] {
      const double start = monotonic_s();
      report::Progress progress("index");
      const data::IndexReport r = data::build_catalogue(
          default_env(), *o, [&](int64_t done, int64_t total) { progress.update(done, total); });
      progress.finish("");
      for (const auto& skipped : r.skipped)
        spdlog::warn("{}. Skipped; {} of {} files so far.", skipped.reason,
                     &skipped - r.skipped.data() + 1, r.videos + int64_t(r.skipped.size()));
      if (o->json) {
        nlohmann::ordered_json j = {{"catalogue", o->out},
                                    {"videos", r.videos},
                                    {"reused", r.reused},
                                    {"frames", r.frames},
                                    {"bytes", r.bytes},
                                    {"direct_read", r.direct_read},
                                    {"class_names", r.class_names},
                                    {"seconds", monotonic_s() - start}};
        j["skipped"] = nlohmann::json::array();
        for (const auto& s : r.skipped)
          j["skipped"].push_back({{"path", s.path}, {"reason", s.reason}});
        std::printf("%s\n", json_text(j, 2).c_str());
      }
      spdlog::info(
          "{}: {} videos ({} unchanged), {} frames, {}, {} classes, {} skipped, in {:.1f} s",
          o->out, report::count_text(r.videos), report::count_text(r.reused),
          report::count_text(r.frames), report::bytes_text(double(r.bytes)), r.class_names.size(),
          r.skipped.size(), monotonic_s() - start);
      return 0;
    };
  });
}

}  // namespace keiko::cli
