#include "train/signals.h"

#include <csignal>

namespace keiko::train {
namespace {
volatile std::sig_atomic_t requested = 0;
}

void catch_preemption() {
  struct sigaction action {};
  action.sa_handler = [](int) { requested = 1; };
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGUSR1, &action, nullptr);
}

bool preemption_requested() { return requested != 0; }

}  // namespace keiko::train
