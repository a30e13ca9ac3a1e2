// How long sums over ranks hold up what is computed.
//
// On the CPU it is a thread that waits, and a watch tells how long. On a device a stream waits
// while the thread goes on: there two marks in the stream, one before the wait and one behind it,
// tell it once the device has passed them. Asking never waits for that.

#pragma once
#include <array>
#include <functional>
#include <memory>

namespace keiko::dist {

// One thread uses it.
class WaitClock {
 public:
  virtual ~WaitClock() = default;
  // Around what waits, once a step, on the thread that gives the waiting stream its work.
  virtual void begin() = 0;
  virtual void end() = 0;
  // Seconds from begin() to end() of the newest pair that is known: of a device perhaps not the
  // last. 0 while there is none.
  virtual double last_s() = 0;
};

// Of the thread itself.
std::unique_ptr<WaitClock> make_thread_clock();

// A place in a device's stream.
class StreamMark {
 public:
  virtual ~StreamMark() = default;
  // Marks what the stream has been given so far, in place of what was marked before.
  virtual void record() = 0;
  virtual bool is_reached() const = 0;
  // Device time from `earlier`, made by the same maker; both reached.
  virtual double seconds_since(const StreamMark& earlier) const = 0;
};

// Of a stream, by marks in it: two pairs of them in turns, so that a step that is read late is
// still there when the next one has begun.
class StreamClock : public WaitClock {
 public:
  explicit StreamClock(const std::function<std::unique_ptr<StreamMark>()>& make);
  void begin() override;
  void end() override;
  double last_s() override;

 private:
  struct Pair {
    std::unique_ptr<StreamMark> begin, end;
    bool is_open = false;  // recorded, and not read yet
  };
  std::array<Pair, 2> pairs_;
  size_t newest_ = 0;
  double last_s_ = 0;
};

}  // namespace keiko::dist
