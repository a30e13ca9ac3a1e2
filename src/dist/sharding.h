// Parameters that are updated by one rank each, and needed by all.

#pragma once
#include "dist/communicator.h"
#include "model/parameters.h"

namespace keiko::dist {

// Every rank's share (model::share_of) of every buffer of values becomes every rank's. Cost: one
// all-gather a block. Memory for two copies of the values while it runs. Throws Error(kIo).
void gather_shares(Communicator& communicator, model::Parameters& parameters);

}  // namespace keiko::dist
