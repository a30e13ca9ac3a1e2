#include "dist/control_plane.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/machine.h"

namespace keiko::dist {
namespace {

std::chrono::duration<double> seconds(double s) { return std::chrono::duration<double>(s); }

// "18,204"
std::string with_commas(int64_t n) {
  return n < 1000 ? fmt::format("{}", n) : fmt::format("{},{:03}", with_commas(n / 1000), n % 1000);
}

}  // namespace

ControlPlane::ControlPlane(std::unique_ptr<ControlStore> store, const LaunchEnvironment& launch,
                           ControlOptions options)
    : store_(std::move(store)),
      rank_(launch.rank),
      world_size_(launch.world_size),
      prefix_("control/" + options.meeting + "/"),
      serves_store_(launch.rank == 0 && !launch.agent_serves_store),
      options_(std::move(options)) {
  mine_.host = host_name();
  if (world_size_ == 1) return;
  answered_s_ = monotonic_s();
  thread_ = std::thread([this] { run(); });
  guard_ = std::thread([this] { guard_store(); });
}

ControlPlane::~ControlPlane() { stop_threads(); }

double ControlPlane::beat_s() const { return std::clamp(options_.silence_s / 10, 0.1, 2.0); }

void ControlPlane::at_step(int64_t step) {
  const std::lock_guard lock(mutex_);
  mine_.step = step;
}

void ControlPlane::saved(int64_t step) {
  const std::lock_guard lock(mutex_);
  mine_.saved = step;
}

void ControlPlane::waits_for(const std::string& what) {
  const std::lock_guard lock(mutex_);
  mine_.doing = what;
}

void ControlPlane::goes_on() { waits_for("computing"); }

std::string ControlPlane::explain(const std::string& what, const std::string& cause) {
  if (world_size_ == 1) return "";
  std::unique_lock lock(mutex_);
  mine_.doing = what;
  is_explaining_ = true;
  changed_.notify_all();
  const double begun = monotonic_s();
  while (verdict_.empty() && !is_stopping_) {
    changed_.wait_for(lock, seconds(beat_s()), [&] { return !verdict_.empty() || is_stopping_; });
    const double now = monotonic_s();
    const bool store_answers = now - answered_s_ < 2 * beat_s();
    if (now - begun > (store_answers ? 6 * beat_s() + 2 : options_.silence_s + 3 * beat_s())) break;
  }
  if (!verdict_.empty() || is_stopping_) return verdict_;
  lock.unlock();
  return name_absent(what, cause);
}

// All are alive, and yet a collective did not come about: a connection broke, or somebody never
// came.
std::string ControlPlane::name_absent(const std::string& what, const std::string& cause) {
  std::string absent;
  try {
    const std::lock_guard store(store_mutex_);
    for (int64_t r = 0; r < world_size_; ++r) {
      const auto text = r == rank_ ? std::nullopt : store_->get(prefix_ + std::to_string(r));
      const Sign sign = text ? read(*text) : Sign{};
      if (text && sign.doing == "computing")
        absent += fmt::format("{}rank {} ({}) in step {}", absent.empty() ? "" : ", ", r, sign.host,
                              with_commas(std::max<int64_t>(0, sign.step)));
    }
  } catch (const std::exception&) {  // the store went away meanwhile
  }
  if (absent.empty()) return "";
  return fmt::format("all ranks are alive, but {} failed: {}. Still computing: {}. {}", what, cause,
                     absent, advice());
}

void ControlPlane::finish() {
  if (world_size_ == 1) return;
  {
    const std::lock_guard store(store_mutex_);
    try {
      leave_sign(true);                // the last one: a beat that comes after it leaves none
    } catch (const std::exception&) {  // the work is done all the same
    }
  }
  stop_threads();
}

void ControlPlane::is_ending() {
  const std::lock_guard lock(mutex_);
  is_explaining_ = true;
}

void ControlPlane::give_up(const std::string& message) {
  if (world_size_ == 1) return;
  {
    const std::lock_guard lock(mutex_);
    is_explaining_ = true;  // the process ends by itself
    if (is_stopping_) return;
  }
  pronounce(fmt::format("rank {} ({}) ended in step {}: {}", rank_, mine_.host,
                        with_commas(std::max<int64_t>(0, mine_.step)), message));
  // Who serves the store takes it along: the others get the time to read.
  const double until = monotonic_s() + 3 * beat_s();
  if (serves_store_)
    for (bool all_left = false; !all_left && monotonic_s() < until;) {
      all_left = true;
      for (int64_t r = 1; r < world_size_ && all_left; ++r) {
        const std::lock_guard store(store_mutex_);
        try {
          const auto text = store_->get(prefix_ + std::to_string(r));
          all_left = text && read(*text).has_left;
        } catch (const std::exception&) {
          break;
        }
      }
      if (!all_left) std::this_thread::sleep_for(seconds(beat_s() / 4));
    }
  finish();
}

// The guard goes last: until then a store that hangs cannot hold the other thread for good.
void ControlPlane::stop_threads() {
  const auto say = [this](bool& flag) {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();
  };
  say(is_stopping_);
  if (thread_.joinable()) thread_.join();
  say(guard_stops_);
  if (guard_.joinable()) guard_.join();
}

std::string ControlPlane::write(const Sign& sign) {
  return nlohmann::json{{"beat", sign.beat},   {"step", sign.step}, {"saved", sign.saved},
                        {"doing", sign.doing}, {"host", sign.host}, {"left", sign.has_left}}
      .dump();
}

ControlPlane::Sign ControlPlane::read(const std::string& text) {
  Sign sign;
  const auto j = nlohmann::json::parse(text, nullptr, false);
  if (!j.is_object()) return sign;
  sign.beat = j.value("beat", int64_t{0});
  sign.step = j.value("step", int64_t{-1});
  sign.saved = j.value("saved", int64_t{-1});
  sign.doing = j.value("doing", std::string());
  sign.host = j.value("host", std::string());
  sign.has_left = j.value("left", false);
  return sign;
}

std::string ControlPlane::advice() const {
  const std::lock_guard lock(mutex_);
  return mine_.saved < 0 ? "Ending the job; no checkpoint is saved yet"
                         : fmt::format("Ending the job; start it again to go on from step {}",
                                       with_commas(mine_.saved));
}

void ControlPlane::leave_sign(bool has_left) {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    ++mine_.beat;
    mine_.has_left = has_left;
    text = write(mine_);
  }
  store_->set(prefix_ + std::to_string(rank_), text);
}

void ControlPlane::run() {
  std::unique_lock lock(mutex_);
  while (!is_stopping_) {
    lock.unlock();
    try {
      beat();
    } catch (const std::exception& e) {
      hear(fmt::format("lost {}: {}. Its process or host is dead or cut off. {}",
                       store_->describe(), e.what(), advice()));
    }
    lock.lock();
    // The main thread ends by itself once it knows; where it cannot, this one ends the process. One
    // that has begun to end gets longer: it may have a reason of its own to give.
    const double patience_s = is_explaining_ ? 4 * beat_s() + 10 : 2 * beat_s() + 1;
    if (!verdict_.empty() && monotonic_s() > verdict_s_ + patience_s) {
      const std::string verdict = verdict_;
      lock.unlock();
      options_.end_process(verdict);
      return;
    }
    changed_.wait_for(lock, seconds(is_explaining_ ? beat_s() / 2 : beat_s()),
                      [&] { return is_stopping_; });
  }
}

void ControlPlane::beat() {
  const std::lock_guard store(store_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (mine_.has_left) return;
  }
  leave_sign(false);
  const auto verdict = store_->get(prefix_ + "verdict");
  bool suspects = false;
  {
    const std::lock_guard lock(mutex_);
    answered_s_ = monotonic_s();
    suspects = is_explaining_;
    if (is_stopping_ || !verdict_.empty()) return;
  }
  if (verdict) return hear(*verdict);
  if (!suspects) return look_at((rank_ + 1) % world_size_, options_.silence_s);
  // A connection broke: whoever misses three signs now is the cause.
  for (int64_t r = 0; r < world_size_; ++r)
    if (r != rank_) look_at(r, std::min(options_.silence_s, 3 * beat_s() + 0.5));
}

void ControlPlane::look_at(int64_t rank, double limit_s) {
  const auto text = store_->get(prefix_ + std::to_string(rank));
  const double now = monotonic_s();
  const auto [entry, is_new] = seen_.try_emplace(rank, Seen{text.value_or(""), now});
  Seen& seen = entry->second;
  if (!is_new && text.value_or("") != seen.text) seen = {text.value_or(""), now};
  const Sign sign = read(seen.text);
  if (sign.has_left || now - seen.changed_s <= limit_s) return;
  const std::string message =
      fmt::format("rank {} ({}) has not answered for {:.0f} s; last seen in step {}, {}. {}", rank,
                  sign.host.empty() ? "unknown host" : sign.host, now - seen.changed_s,
                  with_commas(std::max<int64_t>(0, sign.step)), sign.doing, advice());
  store_->set(prefix_ + "verdict", message);
  hear(message);
}

void ControlPlane::pronounce(const std::string& message) {
  const std::lock_guard store(store_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (!verdict_.empty()) return;
  }
  try {
    const auto earlier = store_->get(prefix_ + "verdict");
    if (!earlier) store_->set(prefix_ + "verdict", message);
    hear(earlier.value_or(message));
  } catch (const std::exception&) {  // nobody is left to tell
  }
}

void ControlPlane::hear(const std::string& verdict) {
  const std::lock_guard lock(mutex_);
  if (!verdict_.empty()) return;
  verdict_ = verdict;
  verdict_s_ = monotonic_s();
  changed_.notify_all();
}

// The beating thread hangs when the store's host does, so another one looks at the clock.
void ControlPlane::guard_store() {
  std::unique_lock lock(mutex_);
  while (!guard_stops_) {
    changed_.wait_for(lock, seconds(beat_s()), [&] { return guard_stops_; });
    const double silent_s = monotonic_s() - answered_s_;
    if (guard_stops_ || silent_s <= options_.silence_s) continue;
    const int64_t saved = mine_.saved;
    if (verdict_.empty()) {
      verdict_ = fmt::format(
          "{} has not answered for {:.0f} s: its process or host is stopped or cut off. Ending the "
          "job; {}",
          store_->describe(), silent_s,
          saved < 0 ? "no checkpoint is saved yet"
                    : fmt::format("start it again to go on from step {}", with_commas(saved)));
      verdict_s_ = monotonic_s();
      changed_.notify_all();
    }
    const std::string verdict = verdict_;
    lock.unlock();
    // Joining the other thread would wait for the store: the process ends here.
    options_.end_process(verdict);
    return;
  }
}

}  // namespace keiko::dist
