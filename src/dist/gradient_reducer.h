// Sums gradients over ranks: one all-reduce for each flat buffer, in an order that only the model
// decides.

#pragma once
#include "dist/communicator.h"
#include "model/parameters.h"

namespace keiko::dist {

// Starts all reductions, then waits for them. Every rank must call it once a step. Throws
// Error(kIo).
void reduce_gradients(Communicator& communicator, model::Parameters& parameters);

}  // namespace keiko::dist
