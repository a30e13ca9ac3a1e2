// Names for the parts of a step, as profilers show them: torch's own (`keiko train --trace`), and
// NVIDIA's (nsys), which need no switch.

#pragma once
#include <ATen/record_function.h>

#include <string>
#include <utility>

#include "model/block_runner.h"

namespace keiko::train {

// A stretch of the calling thread's time with a name, from its making to its end. Costs some tens
// of nanoseconds where nobody looks. Ranges of a thread nest.
class Range {
 public:
  explicit Range(const std::string& name);
  ~Range();
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  at::RecordFunction record_;
};

// What `work` returns, with its time named.
template <class Work>
decltype(auto) in_range(const std::string& name, Work&& work) {
  const Range range(name);
  return std::forward<Work>(work)();
}

// Gives every block's forward pass a range ("block 03"); where blocks are computed again, in the
// backward pass too.
class NamingRunner : public model::BlockRunner {
 public:
  // `inner` runs the blocks; not owned.
  explicit NamingRunner(const model::BlockRunner& inner) : inner_(inner) {}
  at::Tensor run(int index, const Forward& forward, const at::Tensor& input) const override;

 private:
  const model::BlockRunner& inner_;
};

}  // namespace keiko::train
