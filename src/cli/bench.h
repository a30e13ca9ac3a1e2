// The parts of `keiko bench`: one function adds one of its commands. Each measures one thing by
// itself and writes its figures as JSON.

#pragma once
#include <CLI/CLI.hpp>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/command.h"

namespace keiko::cli {

void add_bench_decode(CLI::App& bench, Action& action);
void add_bench_loader(CLI::App& bench, Action& action);
void add_bench_step(CLI::App& bench, Action& action);
void add_bench_reduce(CLI::App& bench, Action& action);
void add_bench_checkpoint(CLI::App& bench, Action& action);

// Seconds of processor time, user and system, that all threads of this process have used.
double process_cpu_s();

// Of an even number of values the mean of the middle two. `values` is not empty.
double median(std::vector<double> values);

// Writes `figures` to the file `path`, or to stdout when it is empty. Throws Error(kIo).
void write_figures(const nlohmann::ordered_json& figures, const std::string& path);

}  // namespace keiko::cli
