// keiko: trains video neural networks straight from compressed video.

#include <cstdlib>

#include "cli/run.h"

// Static destructors of the libraries below meet each other in no good order: none are run.
int main(int argc, char** argv) { std::_Exit(keiko::cli::run(argc, argv)); }
