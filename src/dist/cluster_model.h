// What training would do on machines we do not have: step time, waits, checkpoints and failures of
// 1 to many thousand ranks, from costs that were measured on few.
//
// A step is simulated event by event (a bucket of gradients is ready, a reduction ends, a batch is
// decoded), and so is a run (a save, its commit, a failure, a restart). What decides a step is its
// slowest rank, so ranks are looped over only where they differ in more than one way. docs/scale.md
// says what is left out. Nothing here needs torch.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/binder.h"

namespace keiko::dist {

// Measured costs: what `keiko simulate --costs` reads, key for key. Seconds, bytes and bytes a
// second throughout. A rate of 0 means "without limit", a time of 0 "costs nothing".
struct ClusterCosts {
  int64_t ranks = 1;  // how many; not a key: --ranks gives it

  // Machines.
  int64_t ranks_per_node = 8;  // neighbours in rank share a node, its links and its failures

  // A step of one rank without any other.
  int64_t clips_per_rank = 1;           // clips that a rank computes in a step
  double forward_s = 0;                 // forward pass and loss
  double backward_s = 0;                // backward pass, all of it
  std::vector<double> backward_shares;  // of backward_s, one a bucket, in the order of
                                        // bucket_bytes, in any unit; empty: as the buckets' bytes
  double optimizer_s = 0;               // clearing, norm, clipping, update
  double jitter = 0;  // standard deviation of a rank's forward and backward over its mean;
                      // lognormal, drawn anew for each rank and step
  double compute_slowdown = 0;  // how much longer computing takes while a reduction runs (0.2: a
                                // fifth), because both want the same cores or memory
  bool overlap = true;          // reductions run during the backward pass; false: after it

  // Gradients.
  std::vector<double> bucket_bytes;  // fp32 bytes, in the order the backward pass fills them;
                                     // empty: gradient_bytes in `buckets` equal parts
  double gradient_bytes = 0;         // fp32 bytes of all gradients
  int64_t buckets = 1;
  double wire_bytes_per_number = 4;  // 4 sends fp32, 2 bf16
  double scalar_bytes = 64;          // of the all-reduce of losses and flags that ends each step;
                                     // 0: there is none

  // Collectives.
  std::string collective = "gloo_ring";  // gloo_ring, ring, halving_doubling: see all_reduce_s
  double node_latency_s = 0;             // one message between ranks of a node
  double node_bytes_per_s = 0;           // between two ranks of a node, each way
  double link_latency_s = 0;             // one message between nodes
  double link_bytes_per_s = 0;           // out of a node, and into it; its ranks share it
  double reduce_s_per_byte = 0;          // processor time to add one received byte (on the wire)
  double collective_overhead_s = 0;      // fixed cost of a collective beyond its messages

  // Loading.
  double loader_clips_per_s = 0;        // what a rank's decode threads give
  double loader_jitter = 0;             // standard deviation of a batch's decode time over its mean
  int64_t prefetch = 2;                 // batches decoded ahead (recipe: loader.prefetch)
  double bytes_per_clip = 0;            // read from storage for a clip
  double storage_read_bytes_per_s = 0;  // shared by all ranks

  // Checkpoints.
  double checkpoint_bytes = 0;           // written by rank 0 alone: weights, moving averages
  double checkpoint_sharded_bytes = 0;   // shared evenly by all ranks: AdamW's moments
  double host_copy_bytes_per_s = 0;      // a rank's copy before it goes on; all wait for rank 0
  double rank_write_bytes_per_s = 0;     // what one rank can write
  double storage_write_bytes_per_s = 0;  // shared by all ranks
  double commit_s = 0;                   // fsync, state.json, COMMIT, whatever the size
  int64_t checkpoint_every = 0;          // steps between saves; 0: the best that is found

  // Failures.
  double node_mtbf_s = 0;  // mean time between failures of one node, exponential; 0: none fails
  double detect_s = 0;     // from a failure until the other ranks have ended
  double restart_s = 0;    // from there until the first step again: queue, start, loading

  // The simulation itself.
  int64_t simulated_steps = 200;      // averaged, after a warm-up
  int64_t simulated_failures = 4000;  // averaged
  int64_t seed = 1;

  // Lists every key but `ranks`. Throws Error(kUsage) on values that make no sense together.
  void bind(config::Binder& b);
};

// fp32 bytes of each bucket, in the order the backward pass fills them.
std::vector<double> bucket_list(const ClusterCosts& costs);

// Nodes that hold the ranks; the last may be partly empty.
int64_t node_count(const ClusterCosts& costs);

// Seconds of one all-reduce of `bytes` on the wire over all ranks W; 0 for one rank. With a the
// latency, B the bandwidth, c = bytes / W a chunk, g the cost of adding a byte, and the slowest
// link of each step:
//   ring: 2 (W-1) (a + c/B) + (W-1) c g. Patarasu and Yuan, "Bandwidth optimal all-reduce
//     algorithms for clusters of workstations" (JPDC 2009).
//   gloo_ring: the same ring as Gloo runs it (gloo/allreduce.cc, `ring`): a chunk goes in m
//     segments of s bytes, m = max(2, c / 1 MiB), two of them in flight, so that one is added while
//     the other travels; each is announced by its receiver before it is sent, hence 2 a:
//     (W-1) m (max(s/B, s g, (2a + s/B + s g)/2) + max(s/B, (2a + s/B)/2)).
//   halving_doubling: a reduce-scatter by recursive halving, nearest ranks first, then an
//     all-gather back: log2(W) exchanges of bytes/2, bytes/4, ... each way; 2 log2(W) latencies,
//     and two exchanges of all bytes more when W is no power of two. Thakur, Rabenseifner and
//     Gropp, "Optimization of collective communication operations in MPICH" (IJHPCA 2005).
// Ranks of a node that send out of it at once share its link. `collective_overhead_s` comes on top.
double all_reduce_s(const ClusterCosts& costs, double bytes);

// A mean step, without checkpoints and failures.
struct StepFigures {
  double step_s = 0;       // = compute_s + straggler_s + data_wait_s + reduction_s
  double compute_s = 0;    // forward, backward, optimiser of a rank of mean speed
  double straggler_s = 0;  // what the slowest rank's computing takes longer than that
  double data_wait_s = 0;  // until the last rank has its batch
  double reduction_s = 0;  // exposed: what reductions add to the step, scalars included
  double alone_s = 0;      // all gradient reductions one after the other, nothing beside them
  double without_s = 0;    // the same steps without gradient reductions
  double hidden = 1;       // 1 - (step_s - without_s) / alone_s; 1 when there is nothing to hide
};
// Cost: O(simulated_steps), times ranks with loader_jitter. The same costs give the same figures.
StepFigures simulate_steps(const ClusterCosts& costs);

// When the gradients of a step are reduced: one reduction at a time, in the order of the buckets.
struct Overlap {
  double backward_end_s;   // all buckets are filled
  double reduction_end_s;  // all are reduced
};
// `ready_s`: when the slowest rank has filled each bucket if nothing slows it down, ascending;
// `cost_s`: what the reduction of each takes; computing goes 1 + `slowdown` times slower meanwhile.
Overlap overlap_reductions(const std::vector<double>& ready_s, const std::vector<double>& cost_s,
                           double slowdown);

// A save every `every` steps, as costs imply. Training stops for the copy; then the files are
// written in the background, and the next save waits until they are committed.
struct SaveCosts {
  double copy_s = 0;   // all ranks stand still
  double write_s = 0;  // from then until the commit, as long as nobody waits
};
SaveCosts save_costs(const ClusterCosts& costs);

// Shares of the wall time of a long run; they add up to 1.
struct RunFigures {
  double goodput = 1;      // steps that were kept, at step_s each
  double stall_share = 0;  // copies and waits for the save before
  double lost_share = 0;   // steps done again after a failure
  double down_share = 0;   // detecting failures and restarting
};
// A run of steps of `step_s` that saves every `every` steps, until simulated_failures failures. A
// failure during a restart begins it again. Goodput is 0 where restarts hardly ever succeed (they
// take over 20 times the mean time between failures).
RunFigures simulate_run(const ClusterCosts& costs, double step_s, int64_t every);

// The number of steps between saves with the highest goodput.
struct BestInterval {
  int64_t every = 0;         // 0: never, because nothing fails
  int64_t from = 0, to = 0;  // goodput is within 0.001 of the best one over this range
};
BestInterval find_best_interval(const ClusterCosts& costs, double step_s);

// The best interval in seconds of work between saves that stop training for `copy_s`, when failures
// come every `mtbf_s`. Young, "A first order approximation to the optimum checkpoint interval"
// (CACM 1974): sqrt(2 C M). Daly, "A higher order estimate of the optimum checkpoint interval for
// restart dumps" (FGCS 22, 2006): two terms more. Neither knows writing in the background.
double young_interval_s(double copy_s, double mtbf_s);
double daly_interval_s(double copy_s, double mtbf_s);
// Goodput by Daly's complete model (same paper): saves of `copy_s` after every `interval_s` of
// work, restarts of `down_s` which may fail too.
double daly_goodput(double interval_s, double copy_s, double down_s, double mtbf_s);

// Everything about one number of ranks.
struct Prediction {
  int64_t ranks = 1, nodes = 1;
  StepFigures step;
  SaveCosts save;
  double mtbf_s = 0;  // of the whole job; 0: nothing fails
  BestInterval best;
  int64_t every = 0;  // steps between saves that `run` has; 0: none
  RunFigures run;
  double young_steps = 0, daly_steps = 0;  // the formulas' intervals in steps; 0: nothing fails
  double efficiency = 1;        // step_s of one rank / step_s, before checkpoints and failures
  double clips_per_s = 0;       // of all ranks, before checkpoints and failures
  double kept_clips_per_s = 0;  // times goodput
};
Prediction predict(const ClusterCosts& costs);

}  // namespace keiko::dist
