// keiko: trains video neural networks straight from compressed video. This file only lists
// commands.

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"

int main(int argc, char** argv) {
  using namespace keiko;
  CLI::App app(
      "Keiko trains video neural networks straight from compressed video.\n"
      "Start with `keiko synth`, `keiko index` and `keiko train`; each has --help.");
  app.name("keiko");
  app.set_version_flag("--version", std::string("keiko ") + KEIKO_VERSION);
  app.require_subcommand(1);
  bool quiet = false;
  app.add_flag("-q,--quiet", quiet, "Only warnings and errors");
  cli::Action action;
  cli::add_synth(app, action);
  cli::add_index(app, action);
  cli::add_pack(app, action);
  cli::add_inspect(app, action);
  cli::add_decode(app, action);
  cli::add_preview(app, action);
  cli::add_train(app, action);
  cli::add_eval(app, action);
  cli::add_features(app, action);
  cli::add_import(app, action);
  cli::add_export(app, action);
  cli::add_bench(app, action);
  cli::add_doctor(app, action);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 too much bad data, 75 preempted "
      "and saved.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  std::string command = "keiko";
  for (const CLI::App* sub = &app; !sub->get_subcommands().empty();) {
    sub = sub->get_subcommands()[0];
    command += " " + sub->get_name();
  }
  start_log(quiet);
  int code = 1;
  try {
    code = action();
  } catch (const Error& e) {
    spdlog::error("{}: {}", command, e.what());
    code = exit_code(e.kind());
  } catch (const std::exception& e) {
    spdlog::error("{}: {}", command, e.what());
  }
  spdlog::shutdown();
  std::fflush(nullptr);
  // Static destructors of the libraries below meet each other in no good order.
  std::_Exit(code);
}
