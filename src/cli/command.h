// One function for each command of the program: it adds a subcommand and says what it does when
// run.

#pragma once
#include <CLI/CLI.hpp>

#include <functional>

namespace keiko::cli {

// Set by the chosen command; called by run() after parsing. Returns the exit code.
using Action = std::function<int()>;

void add_synth(CLI::App& app, Action& action);
void add_index(CLI::App& app, Action& action);
void add_pack(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_decode(CLI::App& app, Action& action);
void add_preview(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_features(CLI::App& app, Action& action);
void add_import(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_simulate(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);

}  // namespace keiko::cli
