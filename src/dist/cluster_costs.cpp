#include <algorithm>

#include "base/error.h"
#include "dist/cluster_model.h"

namespace keiko::dist {
namespace {

void bind_step(config::Binder& b, ClusterCosts& c) {
  b.key("ranks_per_node", c.ranks_per_node, "ranks that share a node, its links and its failures")
      .range(1, 1024);
  b.key("clips_per_rank", c.clips_per_rank, "clips that a rank computes in a step").at_least(1);
  b.key("forward_s", c.forward_s, "forward pass and loss of a step").at_least(0);
  b.key("backward_s", c.backward_s, "backward pass of a step").at_least(0);
  b.key("backward_shares", c.backward_shares,
        "backward_s split over the buckets, in any unit; [] is in proportion to their bytes")
      .at_least(0);
  b.key("optimizer_s", c.optimizer_s, "clearing gradients, norm, clipping, update").at_least(0);
  b.key("jitter", c.jitter,
        "standard deviation of a rank's forward and backward over its mean, drawn each step")
      .range(0, 10);
  b.key("compute_slowdown", c.compute_slowdown,
        "how much longer computing takes while a reduction runs; 0.2 is a fifth")
      .range(0, 100);
  b.key("overlap", c.overlap, "reductions run during the backward pass; false is after it");
}

void bind_network(config::Binder& b, ClusterCosts& c) {
  b.key("bucket_bytes", c.bucket_bytes,
        "fp32 bytes of each bucket in the order the backward pass fills them; [] is equal parts")
      .at_least(0);
  b.key("gradient_bytes", c.gradient_bytes, "fp32 bytes of all gradients, without bucket_bytes")
      .at_least(0);
  b.key("buckets", c.buckets, "equal parts of gradient_bytes").range(1, 10000);
  b.key("wire_bytes_per_number", c.wire_bytes_per_number, "4 sends fp32, 2 bf16").range(0.25, 8);
  b.key("scalar_bytes", c.scalar_bytes,
        "all-reduce of losses and flags that ends each step; 0 is none")
      .at_least(0);
  b.choice("collective", c.collective, {"gloo_ring", "ring", "halving_doubling"},
           "how ranks add: gloo_ring, ring or halving_doubling (docs/scale.md)");
  b.key("node_latency_s", c.node_latency_s, "a message between ranks of a node").at_least(0);
  b.key("node_bytes_per_s", c.node_bytes_per_s,
        "between two ranks of a node, each way; 0 is without limit")
      .at_least(0);
  b.key("link_latency_s", c.link_latency_s, "a message between nodes").at_least(0);
  b.key("link_bytes_per_s", c.link_bytes_per_s,
        "out of a node and into it, shared by its ranks; 0 is without limit")
      .at_least(0);
  b.key("reduce_s_per_byte", c.reduce_s_per_byte, "processor time to add a received byte")
      .at_least(0);
  b.key("collective_overhead_s", c.collective_overhead_s,
        "fixed cost of a collective beyond its messages")
      .at_least(0);
}

void bind_storage(config::Binder& b, ClusterCosts& c) {
  b.key("loader_clips_per_s", c.loader_clips_per_s,
        "what a rank's decode threads give; 0 is without limit")
      .at_least(0);
  b.key("loader_jitter", c.loader_jitter,
        "standard deviation of a batch's decode time over its mean")
      .range(0, 10);
  b.key("prefetch", c.prefetch, "batches decoded ahead (recipe: loader.prefetch)").range(1, 1024);
  b.key("bytes_per_clip", c.bytes_per_clip, "read from storage for a clip").at_least(0);
  b.key("storage_read_bytes_per_s", c.storage_read_bytes_per_s,
        "shared by all ranks; 0 is without limit")
      .at_least(0);
  b.key("checkpoint_bytes", c.checkpoint_bytes, "written by rank 0 alone: weights, moving averages")
      .at_least(0);
  b.key("checkpoint_sharded_bytes", c.checkpoint_sharded_bytes,
        "shared evenly by all ranks: AdamW's moments")
      .at_least(0);
  b.key("host_copy_bytes_per_s", c.host_copy_bytes_per_s,
        "a rank's copy of what it saves, while all wait; 0 is at once")
      .at_least(0);
  b.key("rank_write_bytes_per_s", c.rank_write_bytes_per_s,
        "what one rank can write; 0 is without limit")
      .at_least(0);
  b.key("storage_write_bytes_per_s", c.storage_write_bytes_per_s,
        "shared by all ranks; 0 is without limit")
      .at_least(0);
  b.key("commit_s", c.commit_s, "fsync, state.json and COMMIT, whatever the size").at_least(0);
  b.key("checkpoint_every", c.checkpoint_every, "steps between saves; 0 is the best that is found")
      .range(0, 1e9);
}

void bind_failures(config::Binder& b, ClusterCosts& c) {
  b.key("node_mtbf_s", c.node_mtbf_s,
        "mean time between failures of one node; 0 is that none fails")
      .at_least(0);
  b.key("detect_s", c.detect_s, "from a failure until the other ranks have ended").at_least(0);
  b.key("restart_s", c.restart_s, "from there until the first step: queue, start, loading")
      .at_least(0);
  b.key("simulated_steps", c.simulated_steps, "steps that are averaged").range(1, 100000);
  b.key("simulated_failures", c.simulated_failures, "failures that are averaged").range(1, 1000000);
  b.key("seed", c.seed, "of the simulation's random numbers").at_least(0);
}

}  // namespace

void ClusterCosts::bind(config::Binder& b) {
  bind_step(b, *this);
  bind_network(b, *this);
  bind_storage(b, *this);
  bind_failures(b, *this);
  if (!b.is_reading()) return;
  const size_t count = bucket_list(*this).size();
  if (!backward_shares.empty() && backward_shares.size() != count)
    b.refuse("backward_shares",
             fmt::format("has {} numbers for {} buckets; give one for each, in their order",
                         backward_shares.size(), count));
  if (!backward_shares.empty() &&
      *std::max_element(backward_shares.begin(), backward_shares.end()) == 0)
    b.refuse("backward_shares", "is all zeros; give each bucket's share of backward_s");
}

std::vector<double> bucket_list(const ClusterCosts& costs) {
  if (!costs.bucket_bytes.empty()) return costs.bucket_bytes;
  return std::vector<double>(size_t(costs.buckets), costs.gradient_bytes / double(costs.buckets));
}

int64_t node_count(const ClusterCosts& costs) {
  return (costs.ranks + costs.ranks_per_node - 1) / costs.ranks_per_node;
}

}  // namespace keiko::dist
