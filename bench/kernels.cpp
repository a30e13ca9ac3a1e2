// The kernels of src/cuda, each on random and edge inputs: its reference beside the definition in
// float64, the kernel on the GPU beside its reference (they must agree to the bit), and its time
// there.
//
// Without a GPU it says so, compares the references alone, and ends with 0: then "skipped" in the
// JSON says why. A reference or kernel that is wrong ends it with 1.

#include "kernels.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace keiko::bench {
namespace {

using nlohmann::json;

struct Options {
  std::string json_path, only;
  int repeat = 50, device = 0;
  unsigned seed = 1;
};

json describe_times(std::vector<double> ms, int64_t bytes) {
  std::sort(ms.begin(), ms.end());
  const double median = ms[ms.size() / 2];
  return {{"min", ms.front()},
          {"median", median},
          {"max", ms.back()},
          {"gb_per_s", double(bytes) / median * 1e-6}};
}

// Milliseconds of each run, between events of the stream.
std::vector<double> time_on_device(const KernelCase& one, int repeat, const cuda::Stream& stream) {
  constexpr int kWarmUp = 5;
  const auto launch = one.prepare_timing(stream);
  cuda::Event start(stream.device(), true), end(stream.device(), true);
  std::vector<double> ms;
  for (int i = 0; i < kWarmUp + repeat; ++i) {
    start.record(stream);
    launch();
    end.record(stream);
    end.synchronize();
    if (i >= kWarmUp) ms.push_back(end.elapsed_ms(start));
  }
  return ms;
}

// Returns whether all comparisons held.
bool run_case(const KernelCase& one, const Options& o, const cuda::Stream* stream, json& rows) {
  json row = {{"name", one.name}, {"inputs", json::array()}};
  bool is_right = true;
  for (const auto& [input, compare] : one.inputs) {
    const Comparison c = compare(stream);
    const bool holds = c.largest_error <= one.tolerance && c.share_off <= one.share_tolerance &&
                       (!c.was_run || c.differing_bytes == 0);
    is_right = is_right && holds;
    json said = {{"input", input},
                 {"values", c.values},
                 {"reference_largest_error", c.largest_error},
                 {"tolerance", one.tolerance},
                 {"reference_share_off", c.share_off}};
    if (c.was_run) said["kernel_differing_bytes"] = c.differing_bytes;
    row["inputs"].push_back(said);
    std::fprintf(stderr, "%-34s %-8s reference off by %.2g at most%s%s\n", one.name.c_str(),
                 input.c_str(), c.largest_error,
                 !c.was_run               ? ""
                 : c.differing_bytes == 0 ? ", kernel equal"
                                          : ", KERNEL DIFFERS",
                 holds ? "" : "  <-- WRONG");
  }
  if (stream != nullptr) {
    row["ms"] = describe_times(time_on_device(one, o.repeat, *stream), one.timed_bytes);
    std::fprintf(stderr, "%-34s %.4f ms (min), %.4f (median), %.4f (max), %.0f GB/s\n",
                 one.name.c_str(), row["ms"]["min"].get<double>(),
                 row["ms"]["median"].get<double>(), row["ms"]["max"].get<double>(),
                 row["ms"]["gb_per_s"].get<double>());
  }
  rows.push_back(row);
  return is_right;
}

int run(const Options& o) {
  json out = {{"seed", o.seed}, {"repeat", o.repeat}, {"kernels", json::array()}};
  std::unique_ptr<cuda::Stream> stream;
  if (cuda::device_count() > 0) {
    out["device"] = cuda::device_name(o.device);
    stream = std::make_unique<cuda::Stream>(o.device);
  } else {
    out["device"] = nullptr;
    out["skipped"] = cuda::why_no_device();
    std::fprintf(stderr, "NO GPU: no kernel is run or timed, references alone are compared (%s)\n",
                 cuda::why_no_device().c_str());
  }
  std::vector<KernelCase> cases = surface_cases(o.seed);
  for (KernelCase& one : patch_cases(o.seed)) cases.push_back(std::move(one));
  bool is_right = true;
  for (const KernelCase& one : cases)
    if (one.name.find(o.only) != std::string::npos)
      is_right = run_case(one, o, stream.get(), out["kernels"]) && is_right;
  if (out["kernels"].empty())
    fail(ErrorKind::kUsage, "--only {} is in no kernel's name; leave it out to see them", o.only);
  out["all_right"] = is_right;
  const std::string text = out.dump(2) + "\n";
  if (o.json_path.empty())
    std::fputs(text.c_str(), stdout);
  else
    std::ofstream(o.json_path) << text;
  return is_right ? 0 : 1;
}

}  // namespace
}  // namespace keiko::bench

int main(int argc, char** argv) {
  keiko::bench::Options o;
  CLI::App app("Compares Keiko's CUDA kernels with their references, and times them.");
  app.add_option("--json", o.json_path, "where the figures go; stdout without it");
  app.add_option("--only", o.only, "kernels whose name holds this");
  app.add_option("--repeat", o.repeat, "timed runs of each kernel")->check(CLI::Range(1, 1000000));
  app.add_option("--device", o.device, "number of the GPU")->check(CLI::NonNegativeNumber);
  app.add_option("--seed", o.seed, "of the random inputs");
  CLI11_PARSE(app, argc, argv);
  try {
    return keiko::bench::run(o);
  } catch (const keiko::Error& error) {
    std::fprintf(stderr, "kernels: %s\n", error.what());
    return keiko::exit_code(error.kind());
  }
}
