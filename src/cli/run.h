// The whole program as one function: every command of keiko, its messages and its exit codes.
//
// A program that registers an objective of its own (objective::register_objective) and then calls
// this is a keiko that knows it: train, eval, preview and all else work with it.

#pragma once

namespace keiko::cli {

// Parses the arguments of main() and runs the command they name. Errors of the command are printed
// to stderr as `keiko COMMAND: MESSAGE`, never thrown. Returns the exit code: 0 done, 1 failed, 2
// wrong usage or recipe, 3 too much bad data, 75 preempted and saved.
//
// Call it once in a process, from the main thread. Output is flushed when it returns; end the
// process with std::_Exit, because static destructors of the libraries below meet each other in no
// good order.
int run(int argc, char** argv);

}  // namespace keiko::cli
