#include "data/index_ranks.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"

namespace keiko::data {
namespace {

constexpr std::chrono::milliseconds kPause{100};

std::string name_in_folder(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

}  // namespace

IndexRanks::IndexRanks(Env* env, const std::string& out, int64_t rank, int64_t world_size,
                       double timeout_s)
    : env_(env), out_(out), rank_(rank), world_size_(world_size), timeout_s_(timeout_s) {
  if (world_size == 1 || rank != 0) return;
  using std::chrono::system_clock;
  token_ = fmt::format("{} {} {}", host_name(), ::getpid(),
                       system_clock::now().time_since_epoch().count());
  publish(env_, out_ + ".journal-run", token_);
}

std::string IndexRanks::journal_of(int64_t rank) const {
  return world_size_ == 1 ? out_ + ".journal"
                          : fmt::format("{}.journal-{}-of-{}", out_, rank, world_size_);
}

std::vector<std::string> IndexRanks::all_journals() const {
  const std::string start = name_in_folder(out_) + ".journal", folder = parent_folder(out_);
  std::vector<std::string> paths;
  for (const std::string& name : env_->list(folder)) {
    if (name.rfind(start, 0) != 0) continue;
    const std::string rest = name.substr(start.size());
    int64_t rank = 0, world = 0;
    int length = 0;
    const bool is_share = std::sscanf(rest.c_str(), "-%ld-of-%ld%n", &rank, &world, &length) == 2 &&
                          size_t(length) == rest.size();
    if (rest.empty() || is_share) paths.push_back(folder + "/" + name);
  }
  return paths;
}

std::string IndexRanks::read_token() const {
  const std::string path = out_ + ".journal-run";
  try {
    return env_->status(path).exists ? read_text(env_, path) : "";
  } catch (const Error&) {
    return "";  // removed, or replaced, between the two calls
  }
}

int64_t IndexRanks::bytes_written() const {
  int64_t bytes = env_->status(out_ + ".tmp").size + env_->status(out_).size;
  for (int64_t r = 0; r < world_size_; ++r) bytes += env_->status(journal_of(r)).size;
  return bytes;
}

void IndexRanks::finish_share(const ShareReport& report, const std::string& error) {
  nlohmann::ordered_json marker;
  marker["error"] = error;
  marker["scanned"] = report.scanned;
  marker["skipped"] = nlohmann::ordered_json::array();
  for (const SkippedFile& f : report.skipped)
    marker["skipped"].push_back(
        {{"path", f.path}, {"size", f.size}, {"mtime_ns", f.mtime_ns}, {"reason", f.reason}});
  std::string shown;
  bool saw_token = false;
  int64_t bytes = -1;
  double last_change = monotonic_s();
  while (true) {
    const std::string token = read_token();
    if (token.empty() && saw_token) return;
    if (!token.empty()) saw_token = true;
    if (!token.empty() && token != shown) {
      marker["run"] = token;
      publish(env_, marker_of(rank_), json_text(marker));
      shown = token;
      last_change = monotonic_s();
    }
    if (!error.empty() && saw_token) return;
    if (const int64_t now = bytes_written(); now != bytes) {
      bytes = now;
      last_change = monotonic_s();
    }
    if (monotonic_s() - last_change > timeout_s_)
      fail(
          ErrorKind::kIo,
          "{}: rank 0 of {} {} for {:.0f} s; this rank's share is in {}. Start the job again: what "
          "was scanned is kept",
          out_, world_size_, saw_token ? "has made no progress" : "has not started", timeout_s_,
          journal());
    std::this_thread::sleep_for(kPause);
  }
}

ShareReport IndexRanks::wait_for_shares() {
  ShareReport sum;
  struct Other {
    int64_t rank, bytes;
    double last_change;
  };
  std::vector<Other> waiting;
  for (int64_t r = 1; r < world_size_; ++r) waiting.push_back({r, -1, monotonic_s()});
  while (!waiting.empty()) {
    std::string late;
    for (auto other = waiting.begin(); other != waiting.end();) {
      const std::string path = marker_of(other->rank);
      nlohmann::json marker;
      try {
        if (env_->status(path).exists)
          marker = nlohmann::json::parse(read_text(env_, path), nullptr, false);
      } catch (const Error&) {
        // Being replaced; the next look will tell.
      }
      if (marker.is_object() && marker.value("run", "") == token_) {
        if (const std::string error = marker.value("error", ""); !error.empty())
          fail(ErrorKind::kIo, "rank {} of {} gave up: {}", other->rank, world_size_, error);
        sum.scanned += marker.value("scanned", int64_t{0});
        for (const auto& f : marker["skipped"])
          sum.skipped.push_back({f.value("path", ""), f.value("size", int64_t{0}),
                                 f.value("mtime_ns", int64_t{0}), f.value("reason", "")});
        other = waiting.erase(other);
        continue;
      }
      const FileStatus journal = env_->status(journal_of(other->rank));
      const int64_t bytes = journal.exists ? journal.size : -1;
      if (bytes != other->bytes) {
        other->bytes = bytes;
        other->last_change = monotonic_s();
      }
      if (monotonic_s() - other->last_change > timeout_s_)
        late += fmt::format("{}{}", late.empty() ? "" : ", ", other->rank);
      ++other;
    }
    if (!late.empty())
      fail(ErrorKind::kIo,
           "{}: rank {} of {} has made no progress for {:.0f} s. Start the job again: what was "
           "scanned is kept; a larger --timeout waits longer",
           out_, late, world_size_, timeout_s_);
    if (!waiting.empty()) std::this_thread::sleep_for(kPause);
  }
  return sum;
}

void IndexRanks::clean_up() {
  for (const std::string& path : all_journals()) {
    env_->remove(path);
    env_->remove(path + ".done");
  }
  env_->remove(out_ + ".journal-run");
}

}  // namespace keiko::data
