// Tells which rank is dead when a run of many stops moving, apart from the collectives that
// stopped.
//
// Every rank has a thread that leaves a sign of life in a store again and again: its step and what
// it waits for. It also looks at the next rank's signs. Who finds a rank silent for too long writes
// a verdict; all ranks read it, say it and end, so that a launcher can start them again. The
// training group is never used for this, and a rank that hangs in a collective is still heard.

#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "dist/communicator.h"

namespace keiko::dist {

// Where signs of life are left. Used by one thread at a time.
class ControlStore {
 public:
  virtual ~ControlStore() = default;
  // Both throw Error(kIo) when the store is gone. They may block while its host does.
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual std::optional<std::string> get(const std::string& key) = 0;
  // "the store of rank 0 at node1:29500"
  virtual std::string describe() const = 0;
};

// A connection of its own to the store that the communicator's ranks met at; call after
// make_communicator(). Throws Error(kIo).
std::unique_ptr<ControlStore> connect_control_store(const LaunchEnvironment& launch,
                                                    double timeout_s);

struct ControlOptions {
  double silence_s = 100;  // without a sign of life for so long, a rank counts as dead
  std::string meeting;     // Communicator::meeting(): signs of an earlier start are no one's
  // Ends the process, with a message. Called on a thread of the control plane when the main thread
  // cannot end by itself, because it waits for a rank that will never answer.
  std::function<void(const std::string& message)> end_process;
};

// A rank's own thread calls everything; for world size 1 nothing happens.
class ControlPlane : public Watcher {
 public:
  ControlPlane(std::unique_ptr<ControlStore> store, const LaunchEnvironment& launch,
               ControlOptions options);
  // Stops without a word to the others, when finish() or give_up() was not called.
  ~ControlPlane() override;
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  // What a verdict says this rank was doing.
  void at_step(int64_t step);
  void saved(int64_t step);  // of the last committed checkpoint
  void waits_for(const std::string& what) override;
  void goes_on() override;
  // Blocks until the dead rank is known: for a few signs of life, or for silence_s while the store
  // does not answer. When all ranks are alive, names those that have not come to the collective.
  std::string explain(const std::string& what, const std::string& cause) override;

  // All is done: no more signs, and nobody misses them. Call on all ranks before their last
  // barrier.
  void finish();
  // This rank is about to end by itself, and needs a while for it: its control thread is patient.
  void is_ending();
  // This rank ends because of `message`: the others are told, unless they know of something
  // earlier. Returns when they have had the time to hear it.
  void give_up(const std::string& message);

  // Seconds between signs of life.
  double beat_s() const;

 private:
  // What a rank says of itself.
  struct Sign {
    int64_t beat = 0, step = -1, saved = -1;
    std::string doing = "computing", host;
    bool has_left = false;
  };
  struct Seen {
    std::string text;
    double changed_s = 0;  // when we saw it change
  };
  void run();
  void guard_store();
  void beat();
  void leave_sign(bool has_left);
  void look_at(int64_t rank, double limit_s);
  void pronounce(const std::string& message);
  void hear(const std::string& verdict);
  void stop_threads();
  std::string name_absent(const std::string& what, const std::string& cause);
  std::string advice() const;
  static std::string write(const Sign& sign);
  static Sign read(const std::string& text);

  std::unique_ptr<ControlStore> store_;
  std::mutex store_mutex_;  // a beat, or what give_up() says
  int64_t rank_, world_size_;
  std::string prefix_;
  bool serves_store_;
  ControlOptions options_;
  std::map<int64_t, Seen> seen_;  // of the beating thread

  mutable std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  Sign mine_;
  std::string verdict_;
  double verdict_s_ = 0;        // when it was heard
  double answered_s_ = 0;       // when the store last answered
  bool is_explaining_ = false;  // the main thread knows that something broke, and will end
  bool is_stopping_ = false, guard_stops_ = false;
  std::thread thread_, guard_;
};

}  // namespace keiko::dist
