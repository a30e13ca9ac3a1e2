#include "dist/wait_clock.h"

#include "base/machine.h"

namespace keiko::dist {
namespace {

class ThreadClock : public WaitClock {
 public:
  void begin() override { begun_ = monotonic_s(); }
  void end() override { last_s_ = monotonic_s() - begun_; }
  double last_s() override { return last_s_; }

 private:
  double begun_ = 0, last_s_ = 0;
};

}  // namespace

std::unique_ptr<WaitClock> make_thread_clock() { return std::make_unique<ThreadClock>(); }

StreamClock::StreamClock(const std::function<std::unique_ptr<StreamMark>()>& make) {
  for (Pair& pair : pairs_) pair = {make(), make(), false};
}

void StreamClock::begin() {
  newest_ = 1 - newest_;
  pairs_[newest_].is_open = false;
  pairs_[newest_].begin->record();
}

void StreamClock::end() {
  pairs_[newest_].end->record();
  pairs_[newest_].is_open = true;
}

double StreamClock::last_s() {
  // The older one first: when both have been passed, the newer one counts.
  for (Pair* pair : {&pairs_[1 - newest_], &pairs_[newest_]})
    if (pair->is_open && pair->end->is_reached()) {
      last_s_ = pair->end->seconds_since(*pair->begin);
      pair->is_open = false;
    }
  return last_s_;
}

}  // namespace keiko::dist
