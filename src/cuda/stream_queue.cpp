#include "cuda/stream_queue.h"

namespace keiko::cuda {
namespace {

class EventMark : public WorkMark {
 public:
  EventMark(int device, bool has_time) : event(device, has_time) {}
  void wait() override { event.synchronize(); }
  double seconds_since(WorkMark& earlier) override {
    earlier.wait();
    wait();
    return event.elapsed_ms(static_cast<EventMark&>(earlier).event) / 1000;
  }

  Event event;
};

}  // namespace

std::unique_ptr<WorkMark> StreamQueue::mark(bool has_time) {
  auto mark = std::make_unique<EventMark>(device_, has_time);
  mark->event.record(Stream(device_, current_()));
  return mark;
}

void StreamQueue::wait_for(const WorkMark& mark) {
  Stream(device_, current_()).wait(static_cast<const EventMark&>(mark).event);
}

}  // namespace keiko::cuda
