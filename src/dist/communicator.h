// Collectives between ranks, whatever carries them; Gloo over c10d behind one source file.

#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "dist/launch.h"
#include "dist/wait_clock.h"

namespace c10d {
class Store;
}

namespace keiko::dist {

// A collective under way.
class Work {
 public:
  virtual ~Work() = default;
  // Returns when the result is there. Throws Error(kIo) naming the collective when a rank is gone
  // or silent for longer than the time-out.
  virtual void wait() = 0;
  // True when wait() would return, or throw, at once.
  virtual bool is_done() = 0;
};

// Is told what this rank waits for, and knows more than a broken connection says about why it will
// never come (the control plane). Called on the thread that uses the communicator.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // `what`: "all_reduce of bucket 5".
  virtual void waits_for(const std::string& what) = 0;
  virtual void goes_on() = 0;
  // A collective failed with `cause`: whose fault it is, in a whole message; "" when that is not
  // known. May block until it is.
  virtual std::string explain(const std::string& what, const std::string& cause) = 0;
};

// Every rank must call the same collectives in the same order. Not thread-safe. Tensors must be
// contiguous CPU tensors and outlive the Work. `what` names the collective in messages:
// "all_reduce of the step's figures".
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t world_size() const = 0;

  // Sums `tensor` over all ranks, in place. Float32, float64, bfloat16 or int64.
  virtual std::unique_ptr<Work> all_reduce(at::Tensor tensor,
                                           const std::string& what = "all_reduce") = 0;
  // Sums `in` [world_size * n] over all ranks; `out` [n] gets this rank's part.
  virtual std::unique_ptr<Work> reduce_scatter(at::Tensor out, const at::Tensor& in,
                                               const std::string& what = "reduce_scatter") = 0;
  // `in` [n] of every rank one after the other, in `out` [world_size * n].
  virtual std::unique_ptr<Work> all_gather_into(at::Tensor out, const at::Tensor& in,
                                                const std::string& what = "all_gather") = 0;
  // The same shape from every rank, stacked: [world_size, ...]. Blocks.
  at::Tensor all_gather(const at::Tensor& tensor);
  // Overwrites `tensor` with rank `root`'s. Blocks.
  virtual void broadcast(at::Tensor tensor, int64_t root) = 0;
  virtual void barrier() = 0;

  // The ranks `members` (ascending, this rank among them) as a communicator of their own; `name` is
  // the same on all of them. Members call it at the same time, and have made as many groups before.
  virtual std::unique_ptr<Communicator> group(const std::string& name,
                                              const std::vector<int64_t>& members) = 0;

  // What this meeting of the ranks is called: the same on all of them, and another one whenever
  // they start again, also where a launcher keeps the store from one start to the next.
  virtual std::string meeting() const = 0;
  // What the ranks met through, for those who bring another process group along; the
  // communicator's. Null: one rank alone.
  virtual c10d::Store* store() const = 0;

  // A mark in the stream of `device` that waits for collectives; null where a thread waits itself.
  virtual std::unique_ptr<StreamMark> make_stream_mark(at::Device device) {
    (void)device;
    return nullptr;
  }
  // How long waiting for collectives of tensors on `device` holds up what is computed there. The
  // communicator outlives making it, not its use.
  std::unique_ptr<WaitClock> make_wait_clock(at::Device device);

  // Who is told from now on, also by groups made later; nobody when null. Outlives the
  // communicator's use.
  virtual void set_watcher(Watcher* watcher) = 0;

  // Rank 0's text on every rank. Blocks.
  std::string broadcast_text(const std::string& text);
  // Every rank's text, in order of ranks, on every rank. Blocks.
  std::vector<std::string> gather_texts(const std::string& text);
};

// For world size 1 a communicator that does nothing; else Gloo over TCP, met at
// master_addr:master_port. Throws Error(kIo) when the others do not come within `timeout_s`, which
// is also the longest wait of a collective. With more than one rank the process ignores SIGPIPE
// from then on.
std::unique_ptr<Communicator> make_communicator(const LaunchEnvironment& launch, double timeout_s);

}  // namespace keiko::dist
