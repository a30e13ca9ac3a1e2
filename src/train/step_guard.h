// What to do with a step whose loss or gradients are not numbers, or whose loss leaps up.
//
// Every rank sees the same global loss and gradient norm, so all come to the same verdict. The
// losses that a leap is measured against are part of a checkpoint: a resumed run judges as the
// first would.

#pragma once
#include <deque>
#include <nlohmann/json.hpp>
#include <string>

#include "config/binder.h"

namespace keiko::train {

struct GuardOptions {
  std::string nonfinite = "stop";  // or "skip": NaN and infinity
  // A loss above mean + spike_std * standard deviation of the last `window` good ones: "off",
  // "count", "skip" (V-JEPA 2.1) or "stop".
  std::string spike = "off";
  double spike_std = 5;
  int64_t window = 300;      // steps; no loss counts as a spike before half of them are seen
  int64_t max_skipped = 10;  // steps skipped in a run, after which it stops
  // Whether all ranks still hold the same weights, looked at before every checkpoint and at every
  // so many steps (0: no more than that); what happens when not: "stop", or "rollback" to the last
  // checkpoint, at most max_rollbacks times before the run stops.
  int64_t replicas_every = 0;
  std::string replicas = "stop";
  int64_t max_rollbacks = 3;

  void bind(config::Binder& b);
};

class StepGuard {
 public:
  enum class Verdict {
    kGood,   // update
    kCount,  // update, but say so
    kSkip,   // leave the weights as they are
    kStop,
  };
  struct Judgement {
    Verdict verdict = Verdict::kGood;
    std::string reason;  // "the loss 9.1 is a spike: ..."; empty when good
    std::string key;     // of GuardOptions, that decided it
  };

  explicit StepGuard(const GuardOptions& options) : options_(options) {}
  // The step's global loss and gradient norm before clipping. Call once for every step, in order.
  Judgement judge(double loss, double grad_norm);
  int64_t spikes() const { return spikes_; }
  int64_t skipped() const { return skipped_; }

  // For state.json, and back. An absent or null state is that of a fresh run.
  nlohmann::ordered_json state() const;
  void restore(const nlohmann::json& state);

 private:
  Judgement skip(const std::string& reason);

  GuardOptions options_;
  std::deque<double> losses_;  // of good steps, at most `window`
  int64_t spikes_ = 0, skipped_ = 0;
};

}  // namespace keiko::train
