// Runs of one, two and three ranks lose power in the middle of operations on their disk, and go on
// to the bits of a run that nobody disturbed.
//
// Each fsync, rename and removal of every rank is tried, and every twentieth of the many writes and
// new files, with the kinds of loss in turns; of runs that share gradients or parameters out, every
// fifteenth of these. KEIKO_POWER_CUTS=every tries every operation of all of them,
// KEIKO_POWER_CUTS=all every operation with every kind of loss.

#include <cstdlib>
#include <map>
#include <ostream>
#include <set>

#include "train/run_for_tests.h"

namespace keiko::train {
namespace {

// Step 2's checkpoint is removed when 4's counts, 4's stays as one of every fourth, 6's goes again.
const std::vector<std::string> kSaving = {"checkpoint.every=2", "checkpoint.keep=1",
                                          "checkpoint.keep_every=4", "steps=7"};
constexpr int64_t kLast = 7;

struct Loss {
  const char* name;
  PowerCut cut;
};
constexpr Loss kLosses[] = {
    {"the disk goes off: all that was not synced is lost", {true, 0, 0}},
    {"the disk goes off: names survive, bytes do not", {true, 1, 0}},
    {"the disk goes off: names survive, and half of the bytes", {true, 1, 0.5}},
    {"the disk goes off: half of the names survive, and half of the bytes", {true, 0.5, 0.5}},
    {"one machine goes off: its bytes are lost", {false, 1, 0}},
    {"one machine goes off: half of its bytes are lost", {false, 1, 0.5}},
    {"one rank is killed", {false, 1, 1}},
};

struct Cut {
  int64_t rank, operation;
  const Loss* loss;
  std::string text;
};

struct Ranks {
  int64_t world;
  const char* shard;
};
void PrintTo(const Ranks& ranks, std::ostream* out) {
  *out << ranks.world << " ranks, train.shard " << ranks.shard;
}

class PowerCuts : public TinyRun, public testing::WithParamInterface<Ranks> {
 protected:
  // All cuts to be tried, from a run that counts; of a sample `one_in` that many.
  static std::vector<Cut> choose_cuts(const FaultDisk& counted, int64_t world, size_t one_in) {
    const char* set = std::getenv("KEIKO_POWER_CUTS");
    const std::string extent = set ? set : "";
    std::vector<Cut> cuts;
    std::vector<int64_t> operations(size_t(world), 0);
    size_t turn = 0, plain = 0;
    for (const DiskChange& change : counted.changes()) {
      const int64_t operation = ++operations[size_t(change.rank)];
      const bool is_plain = change.kind == DiskChange::kWrite || change.kind == DiskChange::kCreate;
      const auto add = [&](const Loss& loss) {
        cuts.push_back(
            {change.rank, operation, &loss,
             fmt::format("rank {} stops before its operation {} (such as {} {}); {}", change.rank,
                         operation, char(change.kind), change.path, loss.name)});
      };
      if (extent == "all")
        for (const Loss& loss : kLosses) add(loss);
      else if (!is_plain || extent == "every" || plain++ % 20 == 0)
        add(kLosses[turn++ % std::size(kLosses)]);
    }
    if (!extent.empty()) return cuts;
    std::vector<Cut> sample;
    for (size_t i = 0; i < cuts.size(); i += one_in) sample.push_back(cuts[i]);
    return sample;
  }
};

TEST_P(PowerCuts, AmongTheDiskOperationsOfEveryRankResumeBitExactly) {
  const int64_t world = GetParam().world;
  const std::string shard = GetParam().shard;
  std::vector<std::string> saving = kSaving;
  saving.push_back("train.shard=" + shard);
  const TempFolder reference;
  FaultDisk counted;
  ASSERT_EQ(
      train_ranks(world, reference.path() + "/run", saving,
                  [&](int64_t rank) { return std::make_unique<FaultEnv>(disk, &counted, rank); }),
      zeros(world));
  const std::string wanted = essence(reference.path() + "/run", world, kLast);
  const Saves undisturbed = read_saves(counted);
  ASSERT_EQ(undisturbed.begun, (std::set<int64_t>{2, 4, 6, 7}));
  ASSERT_EQ(undisturbed.overlap, "");
  ASSERT_EQ(list_checkpoints(disk, reference.path() + "/run/checkpoints"),
            (std::vector<std::string>{checkpoint_name(4), checkpoint_name(7)}));
  const std::vector<Cut> cuts = choose_cuts(counted, world, shard == "none" ? 1 : 15);
  int64_t operations = 0;
  for (int64_t rank = 0; rank < world; ++rank) {
    operations += counted.operations(rank);
    ASSERT_GT(counted.operations(rank), 50) << "rank " << rank;
  }
  std::map<std::string, int> tried;
  for (const Cut& cut : cuts) {
    SCOPED_TRACE(cut.text);
    const TempFolder scratch;
    const std::string run = scratch.path() + "/run";
    FaultDisk shared;
    const auto with_faults = [&](int64_t rank) {
      auto env = std::make_unique<FaultEnv>(disk, &shared, rank);
      if (rank == cut.rank) env->stop_at(cut.operation, cut.loss->cut);
      return env;
    };
    const auto codes = train_ranks(world, run, saving, with_faults, cut.loss->cut.takes_disk);
    ASSERT_EQ(codes[size_t(cut.rank)], FaultEnv::kPowerCutExit);
    // Who sees another rank die ends with an error; or has nothing left to ask of it.
    if (!cut.loss->cut.takes_disk) {
      for (int64_t rank = 0; rank < world; ++rank)
        ASSERT_TRUE(rank == cut.rank || codes[size_t(rank)] <= 1)
            << "rank " << rank << ": " << codes[size_t(rank)];
    }
    const Saves saves = read_saves(shared);
    ASSERT_EQ(saves.overlap, "");
    // No committed step is lost, and at most one save is not committed.
    const auto found = find_checkpoint(disk, run + "/checkpoints");
    ASSERT_GE(found ? step_in(*found) : -1, saves.committed);
    if (saves.begun.size() > 1) {
      ASSERT_GE(saves.committed, *std::prev(saves.begun.end(), 2));
    }
    ASSERT_EQ(train_ranks(world, run, saving), zeros(world));
    ASSERT_EQ(essence(run, world, kLast), wanted);
    ASSERT_EQ(read_text(disk, run + "/checkpoints/latest"), checkpoint_name(kLast) + "\n");
    ++tried[cut.loss->name];
  }
  std::string counts;
  for (const auto& [name, count] : tried) counts += fmt::format("\n  {:4} {}", count, name);
  std::printf("%s\n", fmt::format("{} ranks, train.shard {}, {} operations, {} power cuts:{}",
                                  world, shard, operations, cuts.size(), counts)
                          .c_str());
}

// Four ranks stop some steps after a checkpoint, one rank goes on from it and stops too, three
// finish: the lines of lost steps go, also from the files of ranks that are no longer there.
TEST_F(TinyRun, EverySampleIsListedOnceWhenOtherNumbersOfRanksGoOn) {
  const TempFolder reference, scratch;
  ASSERT_EQ(train_ranks(1, reference.path() + "/run", kSaving), zeros(1));
  const auto samples_by_position = [](const std::string& run, int64_t world) {
    std::map<int64_t, std::string> lines;
    for (int64_t rank = 0; rank < world; ++rank) {
      const std::string path = fmt::format("{}/samples-{}.jsonl", run, rank);
      if (!disk->status(path).exists) continue;
      for (const auto& line : report::read_json_lines(disk, path)) {
        EXPECT_TRUE(lines.emplace(line["position"].get<int64_t>(), line.dump()).second)
            << path << ": position " << line["position"] << " is there twice";
      }
    }
    return lines;
  };
  const auto wanted = samples_by_position(reference.path() + "/run", 1);
  ASSERT_EQ(wanted.size(), size_t(4 * kLast));
  // After the checkpoint of step 2 is there for sure, and before that of step 6 is.
  struct Start {
    int64_t world, stops_at;  // the step that is not logged; -1: goes on to the end
  };
  const std::string run = scratch.path() + "/run";
  for (const Start& start : {Start{4, 6}, Start{1, 6}, Start{3, -1}}) {
    SCOPED_TRACE(fmt::format("{} ranks", start.world));
    FaultDisk shared;
    const auto stopping = [&](int64_t rank) {
      auto env = std::make_unique<FaultEnv>(disk, &shared, rank);
      env->before_each([&, raw = env.get()](DiskChange::Kind kind, const std::string& path) {
        if (kind == DiskChange::kWrite && path.ends_with("/metrics.jsonl") &&
            read_text(disk, path).find(fmt::format("\"step\":{},", start.stops_at - 1)) !=
                std::string::npos)
          raw->stop_at(raw->operations() + 1, {.takes_disk = true, .names = 1, .bytes = 1});
        return DiskFault{};
      });
      return env;
    };
    const auto codes = train_ranks(start.world, run, kSaving, stopping, true);
    ASSERT_EQ(codes[0], start.stops_at < 0 ? 0 : FaultEnv::kPowerCutExit);
    const auto found = find_checkpoint(disk, run + "/checkpoints");
    ASSERT_TRUE(found);
    ASSERT_LT(step_in(*found), start.stops_at < 0 ? kLast + 1 : start.stops_at - 1);
  }
  EXPECT_EQ(samples_by_position(run, 4), wanted);
}

INSTANTIATE_TEST_SUITE_P(Ranks, PowerCuts,
                         testing::Values(Ranks{1, "none"}, Ranks{2, "none"}, Ranks{3, "none"},
                                         Ranks{2, "gradients"}, Ranks{2, "parameters"}),
                         [](const auto& info) {
                           return fmt::format("{}_{}", info.param.world, info.param.shard);
                         });

}  // namespace
}  // namespace keiko::train
