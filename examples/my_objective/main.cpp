// Keiko with one objective more: every command of keiko, and recipes may say `name: arrow_of_time`.

#include <cstdlib>

#include "cli/run.h"
#include "my_objective.h"

int main(int argc, char** argv) {
  keiko::objective::register_objective("arrow_of_time",
                                       [] { return std::make_shared<ArrowOfTimeOptions>(); });
  // As in keiko's own main(): see cli/run.h.
  std::_Exit(keiko::cli::run(argc, argv));
}
