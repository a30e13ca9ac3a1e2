#include "dist/cluster_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "base/rng.h"

namespace keiko::dist {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Seconds a byte; a rate of 0 is without limit.
double inverse(double rate) { return rate > 0 ? 1 / rate : 0; }

struct Link {
  double latency_s;
  double s_per_byte;
};

// Every step of a ring uses every link between neighbours at once: the slowest decides.
std::vector<Link> ring_links(const ClusterCosts& c) {
  std::vector<Link> links;
  if (std::min(c.ranks, c.ranks_per_node) > 1)
    links.push_back({c.node_latency_s, inverse(c.node_bytes_per_s)});
  if (node_count(c) > 1) links.push_back({c.link_latency_s, inverse(c.link_bytes_per_s)});
  return links;
}

double ring_s(const ClusterCosts& c, double bytes) {
  const double steps = double(c.ranks - 1), chunk = bytes / double(c.ranks);
  double slowest = 0;
  for (const Link& link : ring_links(c))
    slowest = std::max(slowest, link.latency_s + chunk * link.s_per_byte);
  return steps * (2 * slowest + chunk * c.reduce_s_per_byte);
}

double gloo_ring_s(const ClusterCosts& c, double bytes) {
  constexpr double kMostSegment = 1 << 20;  // AllreduceOptionsImpl::kMaxSegmentSize
  const double chunk = bytes / double(c.ranks);
  const double segments = std::max(2.0, std::ceil(chunk / kMostSegment));
  const double add = chunk / segments * c.reduce_s_per_byte;
  double slowest = 0;
  for (const Link& link : ring_links(c)) {
    const double wire = chunk / segments * link.s_per_byte, round = 2 * link.latency_s + wire;
    slowest =
        std::max(slowest, std::max({wire, add, (round + add) / 2}) + std::max(wire, round / 2));
  }
  return double(c.ranks - 1) * segments * slowest;
}

double halving_doubling_s(const ClusterCosts& c, double bytes) {
  const uint64_t power = std::bit_floor(uint64_t(c.ranks));
  double total = 0, part = bytes;
  const auto exchange = [&](uint64_t distance, double size) {
    const int64_t sharing = std::min(c.ranks, c.ranks_per_node);
    if (distance >= uint64_t(c.ranks_per_node))
      return c.link_latency_s + size * double(sharing) * inverse(c.link_bytes_per_s);
    return c.node_latency_s + size * inverse(c.node_bytes_per_s);
  };
  // Ranks beyond a power of two first give all they have to a neighbour, and get the sum last.
  if (power != uint64_t(c.ranks)) total += 2 * exchange(1, bytes) + bytes * c.reduce_s_per_byte;
  for (uint64_t distance = 1; distance < power; distance *= 2) {
    part /= 2;
    total += 2 * exchange(distance, part) + part * c.reduce_s_per_byte;
  }
  return total;
}

// The z with P(normal > z) = tail.
double normal_quantile(double tail) {
  double low = -40, high = 40;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::numbers::sqrt2) / 2 > tail ? low : high) = middle;
  }
  return (low + high) / 2;
}

// A lognormal factor of mean 1 and standard deviation `sigma`, from a standard normal.
double lognormal(double sigma, double normal) {
  const double s2 = std::log1p(sigma * sigma);
  return std::exp(std::sqrt(s2) * normal - s2 / 2);
}

// The largest of `count` such factors in one draw, by its distribution: with u uniform, u^(1/count)
// is distributed as the largest of `count` uniforms, and factors rise with them.
double largest_lognormal(double sigma, int64_t count, Rng& rng) {
  if (sigma == 0) return 1;
  return lognormal(sigma, normal_quantile(-std::expm1(std::log1p(-rng.uniform()) / double(count))));
}

// When each bucket is filled, from the start of the forward pass, on a rank of mean speed; the last
// entry is the end of the backward pass.
std::vector<double> fill_times(const ClusterCosts& c) {
  std::vector<double> shares = c.backward_shares.empty() ? bucket_list(c) : c.backward_shares;
  double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  if (sum == 0) {
    std::fill(shares.begin(), shares.end(), 1.0);
    sum = double(shares.size());
  }
  double time = c.forward_s;
  for (double& share : shares) {
    time += share / sum * c.backward_s;
    share = time;
  }
  shares.back() = c.forward_s + c.backward_s;
  if (!c.overlap) std::fill(shares.begin(), shares.end(), shares.back());
  return shares;
}

// Loaders of ranks, each a queue: `prefetch` slots, one batch decoded after the other. A slot is
// free again when training takes its batch.
class Loaders {
 public:
  // `lanes`: 1 when all ranks' loaders do the same, else the number of ranks.
  Loaders(const ClusterCosts& c, int64_t lanes)
      : jitter_(c.loader_jitter), decoded_(size_t(lanes), 0.0) {
    const double clips_s =
        std::max(inverse(c.loader_clips_per_s),
                 c.bytes_per_clip * double(c.ranks) * inverse(c.storage_read_bytes_per_s));
    service_s_ = double(c.clips_per_rank) * clips_s;
    taken_.assign(size_t(c.prefetch), std::vector<double>(size_t(lanes), 0.0));
  }

  // When rank `lane` starts step `step`, at `free` at the earliest.
  double take(size_t lane, int64_t step, double free, Rng& rng) {
    double& slot = taken_[size_t(step) % taken_.size()][lane];
    const double factor = jitter_ > 0 ? lognormal(jitter_, rng.normal()) : 1;
    decoded_[lane] = std::max(decoded_[lane], slot) + service_s_ * factor;
    slot = std::max(free, decoded_[lane]);
    return slot;
  }

 private:
  double jitter_, service_s_ = 0;
  std::vector<double> decoded_;             // when each lane's last batch was ready
  std::vector<std::vector<double>> taken_;  // when each slot was freed, by lane
};

struct StepTotals {
  double step_s = 0, straggler_s = 0, data_wait_s = 0, reduction_s = 0;
};

// Mean over simulated_steps.
StepTotals run_steps(const ClusterCosts& c, const std::vector<double>& reduction_costs) {
  const std::vector<double> fill = fill_times(c);
  const double scalars_s = c.scalar_bytes > 0 ? all_reduce_s(c, c.scalar_bytes) : 0;
  // With equal loaders all ranks start a step together, and then the slowest rank is the slowest in
  // every bucket: one draw of the largest factor does for all. Unequal loaders need every rank.
  const bool each_rank = c.loader_jitter > 0 && c.ranks > 1;
  const int64_t lanes = each_rank ? c.ranks : 1;
  Loaders loaders(c, lanes);
  const int64_t warmup = 10 + 2 * c.prefetch;
  StepTotals sums;
  double end = 0;
  std::vector<double> ready(fill.size());
  for (int64_t step = 0; step < warmup + c.simulated_steps; ++step) {
    Rng rng(uint64_t(c.seed), Stream::kSimulate, uint64_t(step) + 1);
    const double begin = end;
    double start = begin;
    std::fill(ready.begin(), ready.end(), 0.0);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double taken = loaders.take(size_t(lane), step, begin, rng);
      const double factor = !each_rank     ? largest_lognormal(c.jitter, c.ranks, rng)
                            : c.jitter > 0 ? lognormal(c.jitter, rng.normal())
                                           : 1;
      start = std::max(start, taken);
      for (size_t i = 0; i < fill.size(); ++i)
        ready[i] = std::max(ready[i], taken + factor * fill[i]);
    }
    const double computed = ready.back();
    const Overlap overlap = overlap_reductions(ready, reduction_costs, c.compute_slowdown);
    end = std::max(overlap.backward_end_s, overlap.reduction_end_s) + scalars_s + c.optimizer_s;
    if (step < warmup) continue;
    sums.step_s += end - begin;
    sums.data_wait_s += start - begin;
    sums.straggler_s += computed - start - (c.forward_s + c.backward_s);
    sums.reduction_s += end - c.optimizer_s - computed;
  }
  for (double* sum : {&sums.step_s, &sums.data_wait_s, &sums.straggler_s, &sums.reduction_s})
    *sum /= double(c.simulated_steps);
  return sums;
}

}  // namespace

double all_reduce_s(const ClusterCosts& costs, double bytes) {
  if (costs.ranks <= 1) return 0;
  const double messages = costs.collective == "ring" ? ring_s(costs, bytes)
                          : costs.collective == "halving_doubling"
                              ? halving_doubling_s(costs, bytes)
                              : gloo_ring_s(costs, bytes);
  return costs.collective_overhead_s + messages;
}

Overlap overlap_reductions(const std::vector<double>& ready_s, const std::vector<double>& cost_s,
                           double slowdown) {
  if (cost_s.empty()) return {ready_s.back(), ready_s.back()};
  // `work` is how far computing has come, on the time scale of ready_s.
  double now = ready_s.front(), work = now, busy_until = kInfinity;
  size_t filled = 0, reduced = 0;
  Overlap end{now, now};
  while (reduced < cost_s.size()) {
    const bool busy = reduced < filled;
    const double pace = busy ? 1 / (1 + slowdown) : 1;
    const double next_filled =
        filled < ready_s.size() ? now + (ready_s[filled] - work) / pace : kInfinity;
    const double next = std::min(next_filled, busy_until);
    work += (next - now) * pace;
    now = next;
    if (next_filled <= busy_until) {
      work = ready_s[filled];  // free of rounding
      if (!busy) busy_until = now + cost_s[filled];
      if (++filled == ready_s.size()) end.backward_end_s = now;
    } else {
      ++reduced;
      busy_until = reduced < filled ? now + cost_s[reduced] : kInfinity;
      end.reduction_end_s = now;
    }
  }
  return end;
}

StepFigures simulate_steps(const ClusterCosts& costs) {
  std::vector<double> reductions;
  StepFigures figures;
  if (costs.ranks > 1)
    for (double bytes : bucket_list(costs)) {
      reductions.push_back(all_reduce_s(costs, bytes / 4 * costs.wire_bytes_per_number));
      figures.alone_s += reductions.back();
    }
  const StepTotals with = run_steps(costs, reductions);
  figures.without_s = reductions.empty() ? with.step_s : run_steps(costs, {}).step_s;
  figures.step_s = with.step_s;
  figures.compute_s = costs.forward_s + costs.backward_s + costs.optimizer_s;
  figures.straggler_s = with.straggler_s;
  figures.data_wait_s = with.data_wait_s;
  figures.reduction_s = with.reduction_s;
  if (figures.alone_s > 0)
    figures.hidden = 1 - (figures.step_s - figures.without_s) / figures.alone_s;
  return figures;
}

Prediction predict(const ClusterCosts& costs) {
  Prediction p;
  p.ranks = costs.ranks;
  p.nodes = node_count(costs);
  p.step = simulate_steps(costs);
  p.save = save_costs(costs);
  p.mtbf_s = costs.node_mtbf_s / double(p.nodes);
  p.best = find_best_interval(costs, p.step.step_s);
  p.every = costs.checkpoint_every > 0 ? costs.checkpoint_every : p.best.every;
  p.run = simulate_run(costs, p.step.step_s, p.every);
  if (p.mtbf_s > 0 && p.step.step_s > 0) {
    p.young_steps = young_interval_s(p.save.copy_s, p.mtbf_s) / p.step.step_s;
    p.daly_steps = daly_interval_s(p.save.copy_s, p.mtbf_s) / p.step.step_s;
  }
  ClusterCosts one = costs;
  one.ranks = 1;
  if (p.step.step_s > 0) {
    p.efficiency = simulate_steps(one).step_s / p.step.step_s;
    p.clips_per_s = double(costs.ranks * costs.clips_per_rank) / p.step.step_s;
  }
  p.kept_clips_per_s = p.clips_per_s * p.run.goodput;
  return p;
}

}  // namespace keiko::dist
