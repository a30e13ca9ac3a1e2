#include "dist/cluster_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "config/tree.h"

namespace keiko::dist {
namespace {

// A plain step: 1 s forward, 2 s backward, 0.1 s optimiser, 4 buckets of 25 MB.
ClusterCosts plain(int64_t ranks) {
  ClusterCosts c;
  c.ranks = ranks;
  c.ranks_per_node = 1;
  c.clips_per_rank = 4;
  c.forward_s = 1;
  c.backward_s = 2;
  c.optimizer_s = 0.1;
  c.gradient_bytes = 100e6;
  c.buckets = 4;
  return c;
}

// With links, jitter, loaders, checkpoints and failures.
ClusterCosts whole(int64_t ranks) {
  ClusterCosts c = plain(ranks);
  c.ranks_per_node = 8;
  c.node_bytes_per_s = 10e9;
  c.node_latency_s = 5e-6;
  c.link_bytes_per_s = 1.25e9;
  c.link_latency_s = 20e-6;
  c.jitter = 0.05;
  c.loader_clips_per_s = 1.5;
  c.loader_jitter = 0.2;
  c.checkpoint_bytes = 100e6;
  c.checkpoint_sharded_bytes = 200e6;
  c.host_copy_bytes_per_s = 1e9;
  c.storage_write_bytes_per_s = 1e9;
  c.node_mtbf_s = 30 * 86400;
  c.detect_s = 100;
  c.restart_s = 120;
  return c;
}

TEST(ClusterModel, AStepWithoutLimitsIsItsComputation) {
  for (int64_t ranks : {1, 2, 3, 8, 1000, 16384}) {
    const StepFigures f = simulate_steps(plain(ranks));
    EXPECT_NEAR(f.step_s, 3.1, 1e-9) << ranks << " ranks";
    EXPECT_NEAR(f.reduction_s + f.data_wait_s + f.straggler_s, 0, 1e-9) << ranks << " ranks";
  }
}

TEST(ClusterModel, OneRankReducesNothing) {
  ClusterCosts c = whole(1);
  c.collective_overhead_s = 1;
  EXPECT_EQ(all_reduce_s(c, 1e9), 0);
  const StepFigures f = simulate_steps(c);
  EXPECT_EQ(f.alone_s, 0);
  EXPECT_EQ(f.hidden, 1);
  EXPECT_EQ(f.step_s, f.without_s);
}

TEST(ClusterModel, TheRingCostsWhatItsFormulaSays) {
  ClusterCosts c = plain(4);
  c.collective = "ring";
  c.link_latency_s = 1e-3;
  c.link_bytes_per_s = 100e6;
  c.reduce_s_per_byte = 1e-9;
  c.collective_overhead_s = 0.01;
  // By hand: 6 messages of 2 MB, 20 ms and 1 ms each; 3 additions of 2 MB; the overhead.
  EXPECT_NEAR(all_reduce_s(c, 8e6), 6 * (0.020 + 0.001) + 3 * 0.002 + 0.01, 1e-12);
}

TEST(ClusterModel, TheSlowestLinkDecidesARing) {
  ClusterCosts c = plain(16);
  c.collective = "ring";
  c.ranks_per_node = 8;
  c.node_bytes_per_s = 10e9;
  c.link_bytes_per_s = 1e9;
  EXPECT_NEAR(all_reduce_s(c, 16e6), 30 * 1e6 / 1e9, 1e-12);
  c.ranks = 8;  // one node
  EXPECT_NEAR(all_reduce_s(c, 8e6), 14 * 1e6 / 10e9, 1e-12);
}

TEST(ClusterModel, GloosRingMovesAsManyBytesAndHidesAdditions) {
  ClusterCosts c = plain(4);
  c.link_bytes_per_s = 100e6;
  EXPECT_NEAR(all_reduce_s(c, 8e6), 6 * 0.020, 1e-12);
  c.reduce_s_per_byte = 5e-9;  // half of the wire's time a byte: beside it
  EXPECT_NEAR(all_reduce_s(c, 8e6), 6 * 0.020, 1e-12);
  c.reduce_s_per_byte = 20e-9;  // twice: the additions decide in the first half
  EXPECT_NEAR(all_reduce_s(c, 8e6), 3 * 0.040 + 3 * 0.020, 1e-12);
  // Short messages: two segments at once, an announcement and a message each.
  c.link_latency_s = 1e-3;
  EXPECT_NEAR(all_reduce_s(c, 0), 6 * 2 * 1e-3, 1e-12);
}

TEST(ClusterModel, HalvingAndDoublingCostsWhatItsFormulaSays) {
  ClusterCosts c = plain(8);
  c.collective = "halving_doubling";
  c.link_latency_s = 1e-3;
  c.link_bytes_per_s = 100e6;
  // 4, 2 and 1 MB each way: 70 ms twice, and 6 latencies.
  EXPECT_NEAR(all_reduce_s(c, 8e6), 2 * 0.070 + 6e-3, 1e-12);
  c.ranks = 9;
  EXPECT_NEAR(all_reduce_s(c, 8e6), 2 * 0.070 + 6e-3 + 2 * (0.080 + 1e-3), 1e-12);
}

TEST(ClusterModel, EfficiencyFallsWithLatency) {
  for (const char* collective : {"ring", "gloo_ring", "halving_doubling"}) {
    ClusterCosts c = plain(64);
    c.collective = collective;
    double last = 1.0 + 1e-9;
    for (double latency : {0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1}) {
      c.link_latency_s = latency;
      const double efficiency = predict(c).efficiency;
      EXPECT_LE(efficiency, last) << collective << " at " << latency;
      last = efficiency;
    }
    EXPECT_LT(last, 0.9) << collective;
  }
}

TEST(ClusterModel, ReductionsBesideTheBackwardPassAreHiddenButTheLast) {
  ClusterCosts c = plain(2);
  c.scalar_bytes = 0;
  c.link_bytes_per_s = 100e6;  // 0.25 s a bucket; one is filled every 0.5 s
  StepFigures f = simulate_steps(c);
  EXPECT_NEAR(f.step_s, 3.1 + 0.25, 1e-9);
  EXPECT_NEAR(f.alone_s, 1.0, 1e-9);
  EXPECT_NEAR(f.hidden, 0.75, 1e-9);
  c.overlap = false;
  f = simulate_steps(c);
  EXPECT_NEAR(f.step_s, 3.1 + 1.0, 1e-9);
  EXPECT_NEAR(f.hidden, 0, 1e-9);
}

TEST(ClusterModel, ReductionsSlowComputingWhileTheyRun) {
  // Buckets after 1 and 2 s of work; each reduction 0.5 s; computing at half speed beside them.
  const Overlap o = overlap_reductions({1, 2}, {0.5, 0.5}, 1);
  EXPECT_NEAR(o.backward_end_s, 2.25, 1e-12);
  EXPECT_NEAR(o.reduction_end_s, 2.75, 1e-12);
}

TEST(ClusterModel, TheHiddenShareIsBetweenNoneAndAll) {
  for (int64_t ranks : {2, 3, 16, 100})
    for (double rate : {1e6, 1e7, 1e8, 1e9, 1e10})
      for (double wire : {2.0, 4.0})
        for (double jitter : {0.0, 0.1}) {
          ClusterCosts c = whole(ranks);
          c.loader_jitter = jitter;
          c.link_bytes_per_s = c.node_bytes_per_s = rate;
          c.wire_bytes_per_number = wire;
          c.simulated_steps = 30;
          const StepFigures f = simulate_steps(c);
          EXPECT_GE(f.hidden, -1e-9) << ranks << " ranks at " << rate;
          EXPECT_LE(f.hidden, 1 + 1e-9) << ranks << " ranks at " << rate;
        }
}

TEST(ClusterModel, ThePartsOfAStepAddUp) {
  for (int64_t ranks : {1, 2, 30, 500}) {
    const StepFigures f = simulate_steps(whole(ranks));
    EXPECT_NEAR(f.step_s, f.compute_s + f.straggler_s + f.data_wait_s + f.reduction_s, 1e-9);
  }
}

TEST(ClusterModel, ASlowLoaderSetsThePaceAndIsWaitedFor) {
  ClusterCosts c = plain(4);
  c.loader_clips_per_s = 1;  // 4 s a batch beside 3.1 s of computing
  for (int64_t prefetch : {1, 2, 8}) {
    c.prefetch = prefetch;
    const StepFigures f = simulate_steps(c);
    EXPECT_NEAR(f.step_s, 4, 1e-9);
    EXPECT_NEAR(f.data_wait_s, 0.9, 1e-9);
  }
  c.loader_clips_per_s = 1.4;  // 2.9 s
  EXPECT_NEAR(simulate_steps(c).data_wait_s, 0, 1e-9);
}

TEST(ClusterModel, StorageIsSharedByAllRanks) {
  ClusterCosts c = plain(10);
  c.bytes_per_clip = 1e6;
  c.storage_read_bytes_per_s = 10e6;  // 40 clips a step: 4 s
  EXPECT_NEAR(simulate_steps(c).step_s, 4, 1e-9);
  c.ranks = 5;
  EXPECT_NEAR(simulate_steps(c).step_s, 3.1, 1e-9);
}

TEST(ClusterModel, PrefetchEvensOutAnUnevenLoader) {
  ClusterCosts c = plain(16);
  c.loader_clips_per_s = 1.6;  // 2.5 s a batch on average, 1 s more or less
  c.loader_jitter = 0.4;
  c.prefetch = 1;
  const double one = simulate_steps(c).data_wait_s;
  c.prefetch = 8;
  const double eight = simulate_steps(c).data_wait_s;
  EXPECT_GT(one, 0.2);
  EXPECT_LT(eight, one / 2);
}

TEST(ClusterModel, DrawingTheSlowestRankAtOnceIsLikeDrawingAll) {
  ClusterCosts c = plain(64);
  c.jitter = 0.1;
  c.simulated_steps = 4000;
  const double at_once = simulate_steps(c).step_s;
  c.loader_jitter = 1e-12;  // every rank by itself
  c.loader_clips_per_s = 1000;
  EXPECT_NEAR(simulate_steps(c).step_s, at_once, 0.01);
  // The expected largest of 64 normals is 2.39 standard deviations (a lognormal's is a bit more).
  EXPECT_NEAR(at_once, 3.1 + 3 * 0.1 * 2.39, 0.08);
}

TEST(ClusterModel, GoodputIsThatOfDalysFormula) {
  ClusterCosts c = plain(100);
  c.checkpoint_bytes = 60e9;
  c.host_copy_bytes_per_s = 1e9;  // 60 s, all of it while training waits
  c.node_mtbf_s = 100 * 20000.0;
  c.detect_s = 100;
  c.restart_s = 500;
  c.simulated_failures = 20000;
  for (int64_t every : {30, 100, 500, 1500, 5000, 20000}) {
    const double formula = daly_goodput(double(every), 60, 600, 20000);
    EXPECT_NEAR(simulate_run(c, 1.0, every).goodput, formula, 0.02 * formula) << every << " steps";
  }
  const BestInterval best = find_best_interval(c, 1.0);
  const double daly = daly_interval_s(60, 20000);
  EXPECT_GE(daly, double(best.from)) << best.every;
  EXPECT_LE(daly, double(best.to)) << best.every;
  EXPECT_NEAR(double(best.every), daly, 0.25 * daly);
}

TEST(ClusterModel, TheIntervalFormulasAreThoseOfThePapers) {
  EXPECT_NEAR(young_interval_s(50, 10000), 1000, 1e-9);
  // Daly's figures 3 to 5: 5 min to save and failures every 24 h, 6 h and 15 min give intervals of
  // 117, 57 and 9.1 min.
  EXPECT_NEAR(daly_interval_s(300, 24 * 3600) / 60, 117, 0.5);
  EXPECT_NEAR(daly_interval_s(300, 6 * 3600) / 60, 57, 0.5);
  EXPECT_NEAR(daly_interval_s(300, 15 * 60) / 60, 9.1, 0.05);
}

TEST(ClusterModel, ASaveWaitsForTheOneBefore) {
  ClusterCosts c = plain(1);
  c.checkpoint_bytes = 100e6;
  c.host_copy_bytes_per_s = 100e6;           // 1 s
  c.storage_write_bytes_per_s = 100e6 / 50;  // 50 s in the background
  EXPECT_NEAR(simulate_run(c, 1, 100).goodput, 100.0 / 101, 1e-12);
  EXPECT_NEAR(simulate_run(c, 1, 10).goodput, 10.0 / 51, 1e-12);
}

TEST(ClusterModel, SharesOfARunAddUp) {
  for (int64_t ranks : {8, 512, 16384})
    for (int64_t every : {1, 50, 1000, 100000}) {
      const RunFigures r = simulate_run(whole(ranks), 3, every);
      EXPECT_NEAR(r.goodput + r.stall_share + r.lost_share + r.down_share, 1, 1e-9);
      EXPECT_GE(r.goodput, 0);
      EXPECT_LE(r.goodput, 1);
    }
}

TEST(ClusterModel, WithoutFailuresNothingIsLost) {
  ClusterCosts c = whole(64);
  c.node_mtbf_s = 0;
  const Prediction p = predict(c);
  EXPECT_EQ(p.every, 0);
  EXPECT_EQ(p.run.goodput, 1);
  EXPECT_EQ(p.run.down_share, 0);
}

TEST(ClusterModel, RestartsThatNeverSucceedEndWithNothing) {
  ClusterCosts c = whole(16384);
  c.node_mtbf_s = 3600;  // a failure every 1.8 s
  const Prediction p = predict(c);
  EXPECT_EQ(p.run.goodput, 0);
  EXPECT_EQ(p.run.down_share, 1);
}

TEST(ClusterModel, TheSameSeedGivesTheSameFigures) {
  ClusterCosts c = whole(64);
  const Prediction a = predict(c), b = predict(c);
  EXPECT_EQ(a.step.step_s, b.step.step_s);
  EXPECT_EQ(a.run.goodput, b.run.goodput);
  EXPECT_EQ(a.best.every, b.best.every);
  c.seed = 2;
  const Prediction other = predict(c);
  EXPECT_NE(a.step.step_s, other.step.step_s);
  EXPECT_NEAR(a.step.step_s, other.step.step_s, 0.05 * a.step.step_s);
  EXPECT_NEAR(a.run.goodput, other.run.goodput, 0.02);
}

TEST(ClusterModel, SixteenThousandRanksTakeSeconds) {
  const auto begin = std::chrono::steady_clock::now();
  const Prediction p = predict(whole(16384));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(p.nodes, 2048);
  EXPECT_LT(took.count(), 60) << "seconds, also in a build with sanitizers";
}

ClusterCosts read(const std::string& text) {
  ClusterCosts c;
  config::read_options(config::parse_yaml(text, "costs.json"), c);
  return c;
}

TEST(ClusterModel, CostsAreReadFromJson) {
  const ClusterCosts c =
      read(R"({"forward_s": 1.5e-1, "bucket_bytes": [4e6, 8000000], "overlap": false,
    "collective": "ring"})");
  EXPECT_EQ(c.forward_s, 0.15);
  EXPECT_EQ(bucket_list(c), (std::vector<double>{4e6, 8e6}));
  EXPECT_FALSE(c.overlap);
}

TEST(ClusterModel, CostsThatMakeNoSenseAreRefused) {
  for (const char* text :
       {R"({"forward_s": -1})", R"({"collective": "tree"})", R"({"forwards_s": 1})",
        R"({"buckets": 3, "backward_shares": [1, 2]})", R"({"backward_shares": [0]})"})
    EXPECT_THROW(read(text), Error) << text;
}

}  // namespace
}  // namespace keiko::dist
