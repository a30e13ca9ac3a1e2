// c10d's works and errors as ours; for the sources that hold a process group.

#pragma once
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <algorithm>
#include <memory>
#include <string>

#include "base/error.h"
#include "dist/communicator.h"

namespace keiko::dist {

inline std::string first_line(const std::exception& e) {
  std::string text = e.what();
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

// c10d's errors as Error(kIo): with what the watcher (null: nobody) knows of the cause, or else
// with the collective's name in front.
template <class Call>
auto named(const std::string& what, int64_t rank, Watcher* watcher, Call call) {
  try {
    return call();
  } catch (const std::exception& e) {
    const std::string known = watcher ? watcher->explain(what, first_line(e)) : "";
    if (!known.empty()) throw Error(ErrorKind::kIo, known);
    fail(ErrorKind::kIo,
         "rank {}: {} failed: {}. A rank is dead, silent or cut off; start the job again to go on "
         "from the last checkpoint",
         rank, what, first_line(e));
  }
}

class C10dWork : public Work {
 public:
  C10dWork(c10::intrusive_ptr<c10d::Work> work, std::string what, int64_t rank, Watcher* watcher)
      : work_(std::move(work)), what_(std::move(what)), rank_(rank), watcher_(watcher) {}
  void wait() override {
    if (watcher_) watcher_->waits_for(what_);
    named(what_, rank_, watcher_, [&] { work_->wait(); });
    if (watcher_) watcher_->goes_on();
  }
  bool is_done() override { return work_->isCompleted(); }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
  std::string what_;
  int64_t rank_;
  Watcher* watcher_;
};

}  // namespace keiko::dist
