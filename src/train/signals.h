// SIGTERM and SIGUSR1 as a flag that the training loop asks: save, then exit 75.

#pragma once

namespace keiko::train {

// From now on the two signals only raise the flag. Call once, from the main thread.
void catch_preemption();
bool preemption_requested();

}  // namespace keiko::train
