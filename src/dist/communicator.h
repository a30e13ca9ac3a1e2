// Collectives between ranks, whatever carries them; Gloo over c10d behind one source file.

#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "dist/launch.h"

namespace keiko::dist {

// A collective under way.
class Work {
 public:
  virtual ~Work() = default;
  // Returns when the result is there. Throws Error(kIo) naming the collective when a rank is gone
  // or silent for longer than the time-out.
  virtual void wait() = 0;
};

// Every rank must call the same collectives in the same order. Not thread-safe. Tensors must be
// contiguous CPU tensors and outlive the Work.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t world_size() const = 0;

  // Sums `tensor` over all ranks, in place. Float32, float64, bfloat16 or int64.
  virtual std::unique_ptr<Work> all_reduce(at::Tensor tensor) = 0;
  // The same shape from every rank, stacked: [world_size, ...]. Blocks.
  virtual at::Tensor all_gather(const at::Tensor& tensor) = 0;
  // Overwrites `tensor` with rank `root`'s. Blocks.
  virtual void broadcast(at::Tensor tensor, int64_t root) = 0;
  virtual void barrier() = 0;

  // Rank 0's text on every rank. Blocks.
  std::string broadcast_text(const std::string& text);
};

// For world size 1 a communicator that does nothing; else Gloo over TCP, met at
// master_addr:master_port. Throws Error(kIo) when the others do not come within `timeout_s`.
std::unique_ptr<Communicator> make_communicator(const LaunchEnvironment& launch, double timeout_s);

}  // namespace keiko::dist
