#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/env.h"
#include "base/error.h"
#include "base/json_text.h"
#include "cli/bench.h"
#include "cli/command.h"
#include "cli/cost_files.h"
#include "report/line_plot.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

using dist::Prediction;
using nlohmann::ordered_json;

struct Simulate {
  std::vector<std::string> costs, settings;
  std::vector<int64_t> ranks = {8, 64, 512, 4096, 16384};
  std::string json, plot;
};

std::string seconds(double s) {
  if (s < 1e-12) return "0";
  if (s < 1e-3) return fmt::format("{:.3g} us", s * 1e6);
  if (s < 1) return fmt::format("{:.3g} ms", s * 1e3);
  return s < 120 ? fmt::format("{:.4g} s", s) : report::duration_text(s);
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

std::string steps(double count) {
  return count > 0 ? report::count_text(std::llround(std::max(1.0, count))) : "-";
}

// Columns as wide as their widest cell, aligned to the right.
void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += fmt::format("{}{:>{}}", i == 0 ? "" : "  ", row[i], width[i]);
    fmt::print("{}\n", line);
  }
}

void print_steps(const std::vector<Prediction>& predictions) {
  std::vector<std::vector<std::string>> rows = {{"ranks", "nodes", "step", "compute", "straggler",
                                                 "data wait", "reduction", "hidden", "clips/s",
                                                 "efficiency"}};
  for (const Prediction& p : predictions)
    rows.push_back({report::count_text(p.ranks), report::count_text(p.nodes),
                    seconds(p.step.step_s), seconds(p.step.compute_s), seconds(p.step.straggler_s),
                    seconds(p.step.data_wait_s), seconds(p.step.reduction_s),
                    p.step.alone_s > 0 ? percent(p.step.hidden) : "-",
                    fmt::format("{:.4g}", p.clips_per_s), percent(p.efficiency)});
  fmt::print(
      "A mean step. Compute, straggler, data wait and reduction (what shows of it) make it "
      "up.\n");
  print_table(rows);
}

void print_runs(const std::vector<Prediction>& predictions) {
  std::vector<std::vector<std::string>> rows = {
      {"ranks", "fails every", "copy", "write", "save every", "within 0.1%", "Young", "Daly",
       "stalls", "lost", "down", "goodput", "kept clips/s"}};
  for (const Prediction& p : predictions)
    rows.push_back({report::count_text(p.ranks), p.mtbf_s > 0 ? seconds(p.mtbf_s) : "never",
                    seconds(p.save.copy_s), seconds(p.save.write_s), steps(double(p.every)),
                    p.best.every > 0
                        ? fmt::format("{}-{}", steps(double(p.best.from)), steps(double(p.best.to)))
                        : "-",
                    steps(p.young_steps), steps(p.daly_steps), percent(p.run.stall_share),
                    percent(p.run.lost_share), percent(p.run.down_share), percent(p.run.goodput),
                    fmt::format("{:.4g}", p.kept_clips_per_s)});
  fmt::print(
      "\nA long run. Intervals are in steps: the one that is played, the range over which "
      "goodput is as\ngood as at its best, and what Young's (1974) and Daly's (2006) "
      "formulas say for the copy alone.\nStalls, lost (done again), down and goodput are "
      "shares of wall time.\n");
  print_table(rows);
}

// How far the model is from a measured figure.
std::string beside(const char* name, double measured, double modelled) {
  return fmt::format("  {:<14}{:>12} measured {:>12} modelled {:+.1f}%\n", name, seconds(measured),
                     seconds(modelled), 100 * (modelled / measured - 1));
}

void print_measured(const CostFiles& files) {
  for (const MeasuredReduction& m : files.measured) {
    dist::ClusterCosts costs = files.costs;
    costs.ranks = m.ranks;
    const dist::StepFigures f = dist::simulate_steps(costs);
    fmt::print("\n{}, {} ranks:\n", m.file, m.ranks);
    if (m.alone_s) fmt::print("{}", beside("alone", *m.alone_s, f.alone_s));
    if (m.without_s) fmt::print("{}", beside("step without", *m.without_s, f.without_s));
    if (m.with_s) fmt::print("{}", beside("step with", *m.with_s, f.step_s));
    if (m.hidden)
      fmt::print("  {:<14}{:>12} measured {:>12} modelled\n", "hidden", percent(*m.hidden),
                 percent(f.hidden));
  }
}

ordered_json to_json(const Prediction& p) {
  return {{"ranks", p.ranks},
          {"nodes", p.nodes},
          {"step_s", p.step.step_s},
          {"compute_s", p.step.compute_s},
          {"straggler_s", p.step.straggler_s},
          {"data_wait_s", p.step.data_wait_s},
          {"reduction_s", p.step.reduction_s},
          {"alone_s", p.step.alone_s},
          {"without_s", p.step.without_s},
          {"hidden", p.step.hidden},
          {"efficiency", p.efficiency},
          {"clips_per_s", p.clips_per_s},
          {"checkpoint_copy_s", p.save.copy_s},
          {"checkpoint_write_s", p.save.write_s},
          {"mtbf_s", p.mtbf_s},
          {"checkpoint_every", p.every},
          {"best_every", p.best.every},
          {"best_from", p.best.from},
          {"best_to", p.best.to},
          {"young_every", p.young_steps},
          {"daly_every", p.daly_steps},
          {"goodput", p.run.goodput},
          {"stall_share", p.run.stall_share},
          {"lost_share", p.run.lost_share},
          {"down_share", p.run.down_share},
          {"kept_clips_per_s", p.kept_clips_per_s}};
}

ordered_json to_json(const CostFiles& files, const std::vector<Prediction>& predictions) {
  ordered_json j;
  if (!files.about.empty()) j["about"] = files.about;
  for (const auto& entry : config::list_entries(files.costs)) {
    ordered_json value = ordered_json::parse(entry.value, nullptr, false);
    j["costs"][entry.path] = value.is_discarded() ? ordered_json(entry.value) : value;
  }
  j["sources"] = files.sources;
  j["predictions"] = ordered_json::array();
  for (const Prediction& p : predictions) j["predictions"].push_back(to_json(p));
  return j;
}

void write_plot(const Simulate& o, const CostFiles& files,
                const std::vector<Prediction>& predictions) {
  report::Line efficiency{"efficiency of a step: one rank's step over this one", "#2471a3", {}};
  report::Line goodput{"goodput: share of wall time in steps that are kept", "#c0392b", {}};
  std::vector<double> xs;
  for (const Prediction& p : predictions) {
    xs.push_back(double(p.ranks));
    efficiency.shares.push_back(p.efficiency);
    goodput.shares.push_back(p.run.goodput);
  }
  publish(default_env(), o.plot,
          report::share_plot("Simulated, not measured", files.about, "ranks", xs,
                             {efficiency, goodput}));
}

int simulate(Simulate o) {
  const CostFiles files = read_cost_files(o.costs, o.settings);
  std::sort(o.ranks.begin(), o.ranks.end());
  o.ranks.erase(std::unique(o.ranks.begin(), o.ranks.end()), o.ranks.end());
  report::Progress progress("simulate");
  std::vector<Prediction> predictions;
  for (int64_t ranks : o.ranks) {
    dist::ClusterCosts costs = files.costs;
    costs.ranks = ranks;
    predictions.push_back(dist::predict(costs));
    progress.update(int64_t(predictions.size()), int64_t(o.ranks.size()));
  }
  progress.finish("");
  if (!o.plot.empty()) write_plot(o, files, predictions);
  if (!o.json.empty()) write_figures(to_json(files, predictions), o.json == "-" ? "" : o.json);
  if (o.json == "-") return 0;
  if (!files.about.empty()) fmt::print("{}\n\n", files.about);
  print_steps(predictions);
  print_runs(predictions);
  print_measured(files);
  return 0;
}

std::string cost_list() {
  std::string text =
      "COSTS.json is a map of costs, each optional; seconds, bytes and bytes a second. Beside them "
      "`about` (one\nline) and `sources` (a map from cost to where its number comes from) may "
      "stand. The JSON of `keiko bench\nstep` gives forward_s, backward_s, optimizer_s, "
      "clips_per_rank, gradient_bytes, checkpoint_bytes and\ncheckpoint_sharded_bytes; that of "
      "`keiko bench reduce` gives bucket_bytes, and is held against the model.\nWhat the model "
      "leaves out: docs/scale.md.\n\nCosts (value when not given):\n";
  for (const auto& entry : config::list_entries(dist::ClusterCosts()))
    text += fmt::format("  {:<27}{} ({})\n", entry.path, entry.comment, entry.value);
  return text +
         "\nExample:\n"
         "  keiko bench step --model videomae-b --json step.json\n"
         "  keiko simulate --costs step.json --costs network.json --ranks 8,64,512 \\\n"
         "      --set node_mtbf_s=2.6e6 --plot scale.svg";
}

}  // namespace

void add_simulate(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "simulate",
      "A run on machines we do not have, from measured costs: step time, hidden share of the\n"
      "reductions, waits for data and checkpoints, goodput under failures, and how often to save");
  auto o = std::make_shared<Simulate>();
  c->add_option("--costs", o->costs,
                "File of costs, or figures of `bench step` or `bench reduce`; may be given again, "
                "later ones win")
      ->required()
      ->check(CLI::ExistingFile);
  c->add_option("--ranks", o->ranks, "Numbers of ranks, with commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 17))
      ->capture_default_str();
  c->add_option("--set", o->settings, "key=value: one cost, over what the files say")
      ->type_name("KEY=VALUE");
  c->add_option("--json", o->json, "Write the figures to this file as JSON (- is stdout)");
  c->add_option("--plot", o->plot, "Draw efficiency and goodput against ranks into this SVG file");
  c->footer(cost_list());
  c->callback([o, &action] { action = [o] { return simulate(*o); }; });
}

}  // namespace keiko::cli
