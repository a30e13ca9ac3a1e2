#include "cli/run.h"

#include <cstdio>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"

namespace keiko::cli {

int run(int argc, char** argv) {
  CLI::App app(
      "Keiko trains video neural networks straight from compressed video.\n"
      "Start with `keiko synth`, `keiko index` and `keiko train`; each has --help.");
  app.name("keiko");
  app.set_version_flag("--version", std::string("keiko ") + KEIKO_VERSION);
  app.require_subcommand(1);
  bool quiet = false;
  app.add_flag("-q,--quiet", quiet, "Only warnings and errors");
  Action action;
  add_synth(app, action);
  add_index(app, action);
  add_pack(app, action);
  add_inspect(app, action);
  add_decode(app, action);
  add_preview(app, action);
  add_train(app, action);
  add_eval(app, action);
  add_features(app, action);
  add_import(app, action);
  add_export(app, action);
  add_bench(app, action);
  add_simulate(app, action);
  add_doctor(app, action);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 too much bad data, 75 preempted "
      "and saved.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e) == 0 ? 0 : 2;
    std::fflush(nullptr);
    return code;
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
  return code;
}

}  // namespace keiko::cli
