#include <algorithm>
#include <cmath>
#include <map>

#include "base/rng.h"
#include "dist/cluster_model.h"

namespace keiko::dist {
namespace {

// Restarts that take longer than this many mean times between failures hardly ever succeed
// (one in e^20), and would never end here.
constexpr double kHopeless = 8;

double per_second(double bytes, double rate) { return rate > 0 ? bytes / rate : 0; }

double down_s(const ClusterCosts& c) { return c.detect_s + c.restart_s; }
double job_mtbf_s(const ClusterCosts& c) { return c.node_mtbf_s / double(node_count(c)); }

// The times of one life of a job, from a fresh start or a restart on.
struct SaveTimes {
  double work_s;    // computing between saves
  double first_s;   // until the first commit
  double period_s;  // from one commit to the next
};

SaveTimes save_times(const ClusterCosts& c, double step_s, int64_t every) {
  const SaveCosts save = save_costs(c);
  const double work = double(every) * step_s;
  // The all-reduce that ends a step is what tells the ranks that all files are written.
  const double write = step_s > 0 ? std::ceil(save.write_s / step_s) * step_s : save.write_s;
  return {work, work + save.copy_s + write, save.copy_s + std::max(work, write)};
}

// What failures are drawn for: the same for all intervals that are compared, or the best one would
// be the luckiest.
struct Failures {
  std::vector<double> lives;  // from a start until the next failure
  double down = 0;            // spent between lives, all of it
};

Failures draw_failures(const ClusterCosts& c) {
  const double mtbf = job_mtbf_s(c), down = down_s(c);
  Rng rng(uint64_t(c.seed), Stream::kSimulate, 0);
  const auto draw = [&] { return -mtbf * std::log1p(-rng.uniform()); };
  Failures failures;
  for (int64_t i = 0; i < c.simulated_failures; ++i) {
    failures.lives.push_back(draw());
    for (double again = draw(); again < down; again = draw()) failures.down += again;
    failures.down += down;
  }
  return failures;
}

// Nothing is random between failures, so commits are counted instead of played.
RunFigures play(const Failures& failures, const SaveTimes& times) {
  double saves = 0, lived = 0;
  for (double life : failures.lives) {
    lived += life;
    if (life >= times.first_s) saves += 1 + std::floor((life - times.first_s) / times.period_s);
  }
  const double wall = lived + failures.down;
  RunFigures run;
  run.goodput = saves * times.work_s / wall;
  run.stall_share = saves * (times.period_s - times.work_s) / wall;
  run.down_share = failures.down / wall;
  run.lost_share = std::max(0.0, 1 - run.goodput - run.stall_share - run.down_share);
  return run;
}

}  // namespace

SaveCosts save_costs(const ClusterCosts& c) {
  const double share = c.checkpoint_sharded_bytes / double(c.ranks);
  const double rank0 = c.checkpoint_bytes + share;
  const double all = c.checkpoint_bytes + c.checkpoint_sharded_bytes;
  return {per_second(rank0, c.host_copy_bytes_per_s),
          std::max(per_second(rank0, c.rank_write_bytes_per_s),
                   per_second(all, c.storage_write_bytes_per_s)) +
              c.commit_s};
}

RunFigures simulate_run(const ClusterCosts& c, double step_s, int64_t every) {
  RunFigures run;
  const double mtbf = job_mtbf_s(c);
  if (mtbf <= 0) {
    if (every == 0 || step_s <= 0) return run;
    const SaveTimes times = save_times(c, step_s, every);
    run.goodput = times.work_s / times.period_s;
    run.stall_share = 1 - run.goodput;
    return run;
  }
  if (down_s(c) > kHopeless * mtbf || every == 0 || step_s <= 0) return {0, 0, 0, 1};
  return play(draw_failures(c), save_times(c, step_s, every));
}

BestInterval find_best_interval(const ClusterCosts& c, double step_s) {
  const double mtbf = job_mtbf_s(c);
  if (mtbf <= 0 || step_s <= 0 || down_s(c) > kHopeless * mtbf) return {};
  const Failures failures = draw_failures(c);
  std::map<int64_t, double> goodput;
  const auto look = [&](int64_t every) {
    if (!goodput.contains(every))
      goodput[every] = play(failures, save_times(c, step_s, every)).goodput;
  };
  const auto best = [&] {
    return std::max_element(goodput.begin(), goodput.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; });
  };
  // Farther apart than a few mean times between failures, hardly any save is reached.
  const double most = std::clamp(5 * mtbf / step_s, 1.0, 1e9);
  for (double every = 1; every < most * 1.1; every *= 1.1) look(std::llround(every));
  // Once more, finer, between the neighbours of the best.
  const int64_t coarse = best()->first;
  for (int i = -20; i <= 20; ++i)
    look(std::max<int64_t>(1, std::llround(double(coarse) * std::pow(1.1, i / 20.0))));
  BestInterval found{best()->first, best()->first, best()->first};
  for (const auto& [every, share] : goodput) {
    if (share < best()->second - 0.001) continue;
    found.from = std::min(found.from, every);
    found.to = std::max(found.to, every);
  }
  return found;
}

double young_interval_s(double copy_s, double mtbf_s) { return std::sqrt(2 * copy_s * mtbf_s); }

double daly_interval_s(double copy_s, double mtbf_s) {
  if (copy_s >= 2 * mtbf_s) return mtbf_s;
  const double x = copy_s / (2 * mtbf_s);
  return std::sqrt(2 * copy_s * mtbf_s) * (1 + std::sqrt(x) / 3 + x / 9) - copy_s;
}

double daly_goodput(double interval_s, double copy_s, double down_s, double mtbf_s) {
  return interval_s /
         (mtbf_s * std::exp(down_s / mtbf_s) * std::expm1((interval_s + copy_s) / mtbf_s));
}

}  // namespace keiko::dist
