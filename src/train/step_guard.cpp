#include "train/step_guard.h"

#include <fmt/format.h>

#include <cmath>

namespace keiko::train {

void GuardOptions::bind(config::Binder& b) {
  b.choice("nonfinite", nonfinite, {"stop", "skip"},
           "a step whose loss or gradients are no numbers")
      .free();
  b.choice("spike", spike, {"off", "count", "skip", "stop"}, "a step whose loss leaps up");
  b.key("spike_std", spike_std, "standard deviations above the mean of the last good losses")
      .range(0.1, 1000);
  b.key("window", window, "good losses that a spike is measured against").range(2, 1 << 20);
  b.key("max_skipped", max_skipped, "steps skipped in a run, after which it stops")
      .at_least(0)
      .free();
  b.key("replicas_every", replicas_every,
        "steps between comparisons of the ranks' weights, besides those before checkpoints; 0 is "
        "none")
      .at_least(0)
      .free();
  b.choice("replicas", replicas, {"stop", "rollback"},
           "when they differ: stop, or go back to the last checkpoint")
      .free();
  b.key("max_rollbacks", max_rollbacks, "times, after which the run stops").at_least(0).free();
}

StepGuard::Judgement StepGuard::skip(const std::string& reason) {
  ++skipped_;
  if (skipped_ > options_.max_skipped)
    return {Verdict::kStop,
            fmt::format("{}; more than guard.max_skipped = {} steps were skipped", reason,
                        options_.max_skipped),
            "max_skipped"};
  return {Verdict::kSkip, reason, ""};
}

StepGuard::Judgement StepGuard::judge(double loss, double grad_norm) {
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) {
    const std::string reason = !std::isfinite(loss)
                                   ? fmt::format("the loss is {}", loss)
                                   : fmt::format("the gradient norm is {}", grad_norm);
    if (options_.nonfinite == "skip") return skip(reason);
    return {Verdict::kStop, reason, "nonfinite"};
  }
  Judgement judgement;
  if (options_.spike != "off" && 2 * int64_t(losses_.size()) >= options_.window) {
    double sum = 0, squares = 0;
    for (double l : losses_) sum += l;
    const double mean = sum / double(losses_.size());
    for (double l : losses_) squares += (l - mean) * (l - mean);
    const double bound = mean + options_.spike_std * std::sqrt(squares / double(losses_.size()));
    if (loss > bound) {
      ++spikes_;
      const std::string reason = fmt::format(
          "the loss {:.6g} is a spike: above {:.6g}, {:g} standard deviations over the "
          "mean of the last {}",
          loss, bound, options_.spike_std, losses_.size());
      if (options_.spike == "skip") return skip(reason);
      judgement = {options_.spike == "stop" ? Verdict::kStop : Verdict::kCount, reason, "spike"};
    }
  }
  if (options_.spike != "off") {
    losses_.push_back(loss);
    if (int64_t(losses_.size()) > options_.window) losses_.pop_front();
  }
  return judgement;
}

nlohmann::ordered_json StepGuard::state() const {
  return {{"losses", losses_}, {"spikes", spikes_}, {"skipped", skipped_}};
}

void StepGuard::restore(const nlohmann::json& state) {
  if (state.is_null()) return;
  losses_ = state.at("losses").get<std::deque<double>>();
  spikes_ = state.at("spikes");
  skipped_ = state.at("skipped");
}

}  // namespace keiko::train
