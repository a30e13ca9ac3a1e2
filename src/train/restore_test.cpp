// A checkpoint comes back to whoever keeps what, and each rank reads that alone.

#include "train/restore.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/GradMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/temp_folder.h"
#include "data/flaky_env.h"
#include "dist/ranks_for_tests.h"
#include "dist/sharded_blocks.h"
#include "objective/device_cases_for_tests.h"
#include "train/checkpoint.h"

namespace keiko::train {
namespace {

Env* const disk = default_env();

// Bytes of a safetensors file before its tensors.
int64_t header_bytes(const std::string& path) {
  const model::SafetensorsReader reader(disk, path);
  int64_t tensors = 0;
  for (const auto& entry : reader.entries()) tensors += entry.size;
  return disk->status(path).size - tensors;
}

struct Way {
  int64_t ranks;
  std::string shard;
  int64_t group;
};

// What one rank of a run has of a model; numbers are functions of names and places alone.
struct Kept {
  std::unique_ptr<objective::Objective> objective;
  std::unique_ptr<dist::Shards> shards;
  std::unique_ptr<dist::ShardedBlocks> blocks;
  std::unique_ptr<optim::AdamW> optimizer;

  Kept(dist::Communicator& c, const std::string& keys, const Way& way)
      : objective(objective::make({keys})) {
    auto& parameters = objective->parameters();
    std::vector<model::OwnedSlice> owned;
    if (way.shard != "none") {
      shards = std::make_unique<dist::Shards>(c, parameters, way.group);
      owned = shards->owned_of_whole();
    }
    if (way.shard == "gradients" || way.shard == "parameters") {
      blocks = std::make_unique<dist::ShardedBlocks>(*shards, parameters, dist::ReduceOptions{},
                                                     way.shard == "parameters");
      owned = blocks->owned();
    }
    optimizer = std::make_unique<optim::AdamW>(parameters, optim::OptimizerOptions{}, owned);
  }
  const dist::Shards* shares() const {
    return blocks && blocks->shards_values() ? shards.get() : nullptr;
  }
  int64_t numbers() const {
    int64_t sum = 0;
    for (const model::OwnedSlice& slice : optimizer->owned()) sum += slice.value.numel();
    return sum;
  }
};

at::Tensor numbers_of(const std::string& name, int64_t start, int64_t count) {
  const double own = double(std::hash<std::string>()(name) % 1000);
  return at::arange(start, start + count, at::kFloat).mul_(1e-3).add_(own);
}

// Calls `visit(name, tensor, start)` for all that a checkpoint holds.
void for_each(const Kept& kept,
              const std::function<void(const std::string&, at::Tensor, int64_t)>& visit) {
  const c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : kept.objective->weights()) visit("weight " + name, tensor, 0);
  for (const auto& [name, tensor] : kept.objective->ema_weights()) visit("ema " + name, tensor, 0);
  const auto state = kept.optimizer->state();
  for (size_t i = 0; i < state.size(); ++i)
    visit("state " + state[i].first, state[i].second, kept.optimizer->owned()[i / 2].start);
}

void save(dist::Communicator& c, const std::string& folder, const std::string& keys,
          const Way& way) {
  Kept kept(c, keys, {way.ranks, way.shard == "none" ? "none" : "optimizer", way.group});
  for_each(kept, [](const std::string& name, at::Tensor tensor, int64_t start) {
    tensor.copy_(numbers_of(name, start, tensor.numel()).view(tensor.sizes()));
  });
  PhaseFile phases;
  CheckpointWriter writer(disk, c, folder, {}, phases);
  writer.save(
      copy_content(1, *kept.objective, *kept.optimizer, c, kept.shards.get(), std::nullopt));
  writer.commit();
}

// 0: all that this rank keeps is there, and nothing else was read.
int check(dist::Communicator& c, const std::string& folder, const std::string& keys,
          const Way& way) {
  data::FlakyEnv verifying(disk);
  const auto found = find_checkpoint(&verifying, folder, c);
  if (found != folder + "/" + checkpoint_name(1)) return 2;
  // Every file is checked, by one rank.
  int64_t bytes = 0;
  for (const std::string& name : disk->list(*found))
    if (name != "state.json" && name != "COMMIT") bytes += disk->status(*found + "/" + name).size;
  const at::Tensor read =
      c.all_gather(at::tensor(verifying.bytes - verifying.bytes_of("state.json")));
  if (read.sum().item<int64_t>() != bytes) return 3;

  data::FlakyEnv env(disk);
  Kept kept(c, keys, way);
  const int64_t files = read_state(&env, *found).at("world_size");
  restore_weights(&env, *found, *kept.objective, kept.shares());
  int64_t weights = header_bytes(*found + "/model.safetensors"), averages = 0;
  const auto trained = kept.objective->parameters().published();
  weights += 4 * (kept.shares() ? kept.numbers() : kept.objective->parameters().count());
  for (const auto& [name, tensor] : kept.objective->weights())
    if (std::none_of(trained.begin(), trained.end(),
                     [&, wanted = &name](const auto& entry) { return entry.first == *wanted; }))
      weights += int64_t(tensor.nbytes());
  for (const auto& [name, tensor] : kept.objective->ema_weights())
    averages += int64_t(tensor.nbytes());
  if (averages > 0) averages += header_bytes(*found + "/ema.safetensors");
  if (env.bytes_of("model.safetensors") != weights || env.bytes_of("ema.safetensors") != averages) {
    std::fprintf(stderr, "%lld bytes of weights for %lld, %lld of averages for %lld\n",
                 (long long)env.bytes_of("model.safetensors"), (long long)weights,
                 (long long)env.bytes_of("ema.safetensors"), (long long)averages);
    return 4;
  }

  const int64_t before = env.bytes;
  restore_moments(&env, *found, files, *kept.optimizer);
  int64_t moments = 8 * kept.numbers();
  for (int64_t file = 0; file < files; ++file)
    moments += header_bytes(*found + "/" + optimizer_file(file, files));
  if (env.bytes - before != moments) return 5;
  // Each group keeps a copy, and nobody more than a part of it.
  if (way.shard != "none" &&
      c.all_gather(at::tensor(kept.numbers())).sum().item<int64_t>() !=
          kept.objective->parameters().count() * kept.shards->replicas().world_size())
    return 6;

  if (kept.blocks) {
    kept.blocks->take_shares();
    kept.blocks->gather_all();
  }
  int code = 0;
  for_each(kept, [&](const std::string& name, at::Tensor tensor, int64_t start) {
    const at::Tensor wanted = numbers_of(name, start, tensor.numel()).view(tensor.sizes());
    if (tensor.equal(wanted.to(tensor.scalar_type()))) return;
    std::fprintf(stderr, "%s did not come back\n", name.c_str());
    code = 7;
  });
  return code;
}

const std::vector<Way> kWays = {{1, "none", 0},      {2, "parameters", 0}, {3, "none", 0},
                                {3, "gradients", 0}, {3, "parameters", 0}, {4, "parameters", 2},
                                {4, "optimizer", 2}};

TEST(Restore, EachRankReadsWhatItKeepsAloneWhoeverWroteIt) {
  start_log(true);
  struct Change {
    Way from, to;
  };
  for (const Change& change :
       {Change{kWays[4], kWays[1]}, Change{kWays[0], kWays[4]}, Change{kWays[5], kWays[0]},
        Change{kWays[6], kWays[5]}, Change{kWays[3], kWays[3]}}) {
    const Way &from = change.from, &to = change.to;
    SCOPED_TRACE(fmt::format("{} ranks, {}, groups of {} after {}, {}, {}", to.ranks, to.shard,
                             to.group, from.ranks, from.shard, from.group));
    const TempFolder scratch;
    // Learned positions, a teacher, averaged weights, statistics of data, a frozen encoder.
    std::vector<std::string> cases;
    for (size_t i : {1, 4, 7, 11, 13, 15}) cases.push_back(objective::device_cases()[i].keys);
    const auto folder = [&](size_t i) { return fmt::format("{}/{}", scratch.path(), i); };
    dist::run_ranks(from.ranks, [&](dist::Communicator& c) {
      for (size_t i = 0; i < cases.size(); ++i) save(c, folder(i), cases[i], from);
      return 0;
    });
    dist::run_ranks(to.ranks, [&](dist::Communicator& c) {
      for (size_t i = 0; i < cases.size(); ++i)
        if (const int code = check(c, folder(i), cases[i], to)) {
          std::fprintf(stderr, "%s\n", cases[i].c_str());
          return code;
        }
      return 0;
    });
  }
}

// Bytes of tensors on the CPU that this thread has made and not given back, and the most of them.
class TensorMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now_ += bytes;
    most_ = std::max(most_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t most() const { return most_; }

 private:
  int64_t now_ = 0, most_ = 0;
};

TEST(Restore, NothingOfACheckpointIsInMemoryTwice) {
  start_log(true);
  const std::string wide =
      ", model: custom, width: 128, depth: 2, heads: 2, patch_size: 8, predictor_width: 64, "
      "predictor_depth: 1, predictor_heads: 2, masks: [{blocks: 1, scale: 0.4}]";
  for (const char* shard : {"none", "parameters"}) {
    const TempFolder scratch;
    dist::run_ranks(2, [&, folder = scratch.path() + "/checkpoints"](dist::Communicator& c) {
      const Way way{2, shard, 0};
      save(c, folder, "name: vjepa2" + wide, way);
      Kept kept(c, "name: vjepa2" + wide, way);
      const std::string checkpoint = folder + "/" + checkpoint_name(1);
      const auto memory = std::make_shared<TensorMemory>();
      {
        const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
        const at::Tensor seen = at::empty({1000}, at::kFloat);
        if (memory->most() < 4000) return 2;  // it counts
        restore_weights(disk, checkpoint, *kept.objective, kept.shares());
        restore_moments(disk, checkpoint, 2, *kept.optimizer);
      }
      const int64_t bytes = 4 * kept.objective->parameters().count();
      if (bytes < 1'000'000 || memory->most() > 10'000) {
        std::fprintf(stderr, "%lld bytes besides %lld of weights\n", (long long)memory->most(),
                     (long long)bytes);
        return 3;
      }
      return 0;
    });
  }
}

TEST(Restore, MomentsThatDoNotFitAreRefusedByName) {
  const TempFolder scratch;
  const std::string folder = scratch.path();
  model::write_safetensors(disk, folder + "/" + optimizer_file(0, 2),
                           {{"exp_avg.a", at::arange(5, at::kFloat)}});
  model::write_safetensors(disk, folder + "/" + optimizer_file(1, 2),
                           {{"exp_avg.a", at::arange(5, 12, at::kFloat)}});
  StoredMoments stored(disk, folder, 2);
  at::Tensor into = at::zeros({6}, at::kDouble);
  stored.read("exp_avg.a", 12, 3, into);
  EXPECT_TRUE(into.equal(at::arange(3, 9, at::kDouble)));
  const auto message = [&](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData);
      return e.what();
    }
    return "nothing";
  };
  EXPECT_NE(message([&] { stored.read("exp_avg.b", 12, 0, into); }).find("exp_avg.b is in none"),
            std::string::npos);
  EXPECT_NE(message([&] {
              stored.read("exp_avg.a", 13, 0, into);
            }).find("exp_avg.a has 12 numbers, but 13 in the model"),
            std::string::npos);
}

// Two checkpoints of two ranks, found by three.
class FindCheckpoint : public testing::Test {
 protected:
  void SetUp() override {
    start_log(true);
    dist::run_ranks(2, [&](dist::Communicator& c) {
      Kept kept(c, keys_, {2, "optimizer", 0});
      PhaseFile phases;
      CheckpointWriter writer(disk, c, folder(), {}, phases);
      for (int64_t step : {1, 2}) {
        writer.save(copy_content(step, *kept.objective, *kept.optimizer, c, kept.shards.get(),
                                 std::nullopt));
        writer.commit();
      }
      return 0;
    });
  }
  // One bit of a file of step `step`.
  void damage(int64_t step, const std::string& name) {
    const std::string path = folder() + "/" + checkpoint_name(step) + "/" + name;
    std::string bytes = read_text(disk, path);
    bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
    publish(disk, path, bytes);
  }
  std::string folder() const { return scratch_.path() + "/checkpoints"; }

  const std::string keys_ = objective::device_cases()[0].keys;
  TempFolder scratch_;
};

TEST_F(FindCheckpoint, AllRanksGoBackToTheOneBeforeADamagedOne) {
  std::vector<std::string> names = disk->list(folder() + "/" + checkpoint_name(2));
  std::erase(names, "COMMIT");
  std::erase(names, "state.json");  // has no checksum itself
  ASSERT_EQ(names.size(), 4u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    damage(2, name);
    dist::run_ranks(3, [&](dist::Communicator& c) {
      return find_checkpoint(disk, folder(), c) == folder() + "/" + checkpoint_name(1) ? 0 : 2;
    });
    damage(2, name);  // the same bit again
  }
  dist::run_ranks(3, [&](dist::Communicator& c) {
    return find_checkpoint(disk, folder(), c) == folder() + "/" + checkpoint_name(2) ? 0 : 2;
  });
  damage(1, "model.safetensors");
  damage(2, "optimizer-1-of-2.safetensors");
  dist::run_ranks(3, [&](dist::Communicator& c) {
    try {
      find_checkpoint(disk, folder(), c);
    } catch (const Error& e) {
      const std::string said = e.what();
      return e.kind() == ErrorKind::kData && said.find("all 2 checkpoints") != said.npos ? 0 : 2;
    }
    return 3;
  });
}

// A disk that cannot be read is not a damaged file: no rank goes back alone, and none waits.
TEST_F(FindCheckpoint, WhatOneRankCannotReadEndsAllByName) {
  dist::run_ranks(3, [&](dist::Communicator& c) {
    data::FlakyEnv env(disk, [&](const std::string& path, int64_t) {
      return c.rank() == 1 && path.ends_with("/model.safetensors") ? data::FlakyEnv::kEio
                                                                   : data::FlakyEnv::kNone;
    });
    try {
      find_checkpoint(&env, folder(), c);
    } catch (const Error& e) {
      const std::string said = e.what();
      if (e.kind() != ErrorKind::kIo || said.find("model.safetensors: cannot read") == said.npos)
        return 2;
      return c.rank() == 1 || said.find("rank 1 cannot read a checkpoint") == 0 ? 0 : 3;
    }
    return 4;
  });
}

}  // namespace
}  // namespace keiko::train
