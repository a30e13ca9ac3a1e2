#include "cli/bench.h"

#include <sys/resource.h>
#include <algorithm>
#include <cstdio>

#include "base/env.h"
#include "base/json_text.h"

namespace keiko::cli {

double process_cpu_s() {
  struct rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return (values[middle] + values[values.size() - 1 - middle]) / 2;
}

void write_figures(const nlohmann::ordered_json& figures, const std::string& path) {
  const std::string text = json_text(figures, 2) + "\n";
  if (path.empty())
    std::fputs(text.c_str(), stdout);
  else
    publish(default_env(), path, text);
}

void add_bench(CLI::App& app, Action& action) {
  auto* bench = app.add_subcommand(
      "bench", "Measure a part by itself; figures as JSON, with what limits them");
  bench->require_subcommand(1);
  add_bench_decode(*bench, action);
  add_bench_loader(*bench, action);
  add_bench_step(*bench, action);
  add_bench_reduce(*bench, action);
  add_bench_checkpoint(*bench, action);
}

}  // namespace keiko::cli
