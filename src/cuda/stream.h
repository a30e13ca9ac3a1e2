// Streams and events of the CUDA runtime, each freeing itself.
//
// Work given to one stream runs in order; an event marks a place in it that other streams, or the
// host, can wait for.

#pragma once
#include "cuda/device.h"

namespace keiko::cuda {

class Event;

// A queue of work on one device. Any thread may add work, in an order that is then theirs to know.
class Stream {
 public:
  // A new stream of `device` that does not wait for the default stream. Throws Error.
  explicit Stream(int device);
  // Lends `handle`, a stream of `device` that somebody else owns (torch's current one); nullptr is
  // the default stream.
  Stream(int device, StreamHandle handle) : device_(device), handle_(handle) {}
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int device() const { return device_; }
  StreamHandle handle() const { return handle_; }

  // Work added from now on waits until what `event` marks is done. Returns at once.
  void wait(const Event& event) const;
  // Returns when all work added before is done; throws Error when a part of it failed.
  void synchronize() const;

 private:
  int device_ = 0;
  StreamHandle handle_ = nullptr;
  bool is_owner_ = false;
};

// A place in a stream. Fresh, it is already reached.
class Event {
 public:
  // `has_time`: elapsed_ms() will be asked; costs a little.
  explicit Event(int device, bool has_time = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  int device() const { return device_; }
  EventHandle handle() const { return handle_; }

  // Marks what `stream` has been given so far, in place of what was marked before. The stream must
  // be of the same device.
  void record(const Stream& stream);
  bool is_reached() const;
  void synchronize() const;
  // Milliseconds from `start` to this one; both reached, and made with has_time.
  double elapsed_ms(const Event& start) const;

 private:
  int device_ = 0;
  EventHandle handle_ = nullptr;
};

}  // namespace keiko::cuda
