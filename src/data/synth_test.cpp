// The embedded data set is what it says: the class is the motion and nothing else, whatever moves
// beside it; and what one version drew, the next draws too.

#include "data/synth.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/temp_folder.h"

namespace keiko::data {
namespace {

// In label order: E, NE, N, NW, W, SW, S, SE.
constexpr int kDx[] = {1, 1, 0, -1, -1, -1, 0, 1}, kDy[] = {0, -1, -1, -1, 0, 1, 1, 1};

SynthOptions of_task(const std::string& task, int64_t sprites = 1, int64_t distractors = 0) {
  SynthOptions o;
  o.task = task;
  o.sprites = sprites;
  o.distractors = distractors;
  return o;
}

std::vector<SynthOptions> all_tasks() {
  return {of_task("drift"), of_task("sprites"), of_task("sprites", 3), of_task("sprites", 1, 2)};
}

std::string name_of(const SynthOptions& o) {
  return fmt::format("{}, {} sprites, {} distractors", o.task, o.sprites, o.distractors);
}

// The shift, among the eight, that explains each of the frames [first, o.frames) best from the one
// before it.
int best_direction(const SynthOptions& o, const std::vector<uint8_t>& luma, int64_t first) {
  const int64_t n = o.size;
  int best = -1;
  double best_error = 1e18;
  for (int d = 0; d < 8; ++d) {
    double error = 0;
    for (int64_t t = first; t < o.frames; ++t)
      for (int64_t y = 0; y < n; ++y)
        for (int64_t x = 0; x < n; ++x) {
          const int64_t sx = (x - o.speed * kDx[d] + n) % n, sy = (y - o.speed * kDy[d] + n) % n;
          const double a = luma[size_t((t * n + y) * n + x)];
          const double b = luma[size_t(((t - 1) * n + sy) * n + sx)];
          // The sprites' ground stands still: a pixel may also stay what it was.
          const double still = luma[size_t(((t - 1) * n + y) * n + x)];
          error += std::min({400.0, (a - b) * (a - b), (a - still) * (a - still)});
        }
    if (error < best_error) {
      best_error = error;
      best = d;
    }
  }
  return best;
}

TEST(Synth, IsAFunctionOfItsSeed) {
  for (const SynthOptions& o : all_tasks()) {
    EXPECT_EQ(synth_clip(o, 3), synth_clip(o, 3)) << name_of(o);
    EXPECT_NE(synth_clip(o, 3), synth_clip(o, 11)) << name_of(o);
    SynthOptions other = o;
    other.seed = 2;
    EXPECT_NE(synth_clip(o, 3), synth_clip(other, 3)) << name_of(o);
  }
}

// The fingerprints are those of the clips of Keiko's first release, when a clip had one sprite.
TEST(Synth, DrawsTheClipsThatItAlwaysDrew) {
  const std::pair<const char*, const char*> known[] = {{"drift", "cde454a52ff49100"},
                                                       {"sprites", "fe9b6d2ab6279af5"}};
  for (const auto& [task, fingerprint] : known) {
    std::vector<uint8_t> all;
    for (int64_t index : {int64_t{0}, int64_t{1}, int64_t{13}, (int64_t{1} << 40) + 6})
      for (bool is_small : {false, true}) {
        SynthOptions o = of_task(task);
        o.seed = 3;
        if (is_small) {
          o.size = 48;
          o.frames = 3;
          o.speed = 1;
        }
        const auto luma = synth_clip(o, index);
        all.insert(all.end(), luma.begin(), luma.end());
      }
    EXPECT_EQ(hex64(xxh3(all)), fingerprint) << task;
  }
}

TEST(Synth, MovesInTheDirectionOfItsClassToTheEnd) {
  for (SynthOptions o : all_tasks()) {
    if (o.distractors > 0) continue;  // they may cover more than the sprites do
    o.frames = 32;
    for (int64_t index = 0; index < 16; ++index) {
      const auto luma = synth_clip(o, index);
      EXPECT_EQ(best_direction(o, luma, 1), index % 8) << name_of(o) << ", clip " << index;
      EXPECT_EQ(best_direction(o, luma, 24), index % 8) << name_of(o) << ", end of clip " << index;
    }
  }
}

TEST(Synth, LongerClipsStartAsShorterOnes) {
  for (SynthOptions o : all_tasks()) {
    const auto clip = synth_clip(o, 5);
    o.frames *= 4;
    auto longer = synth_clip(o, 5);
    ASSERT_EQ(longer.size(), 4 * clip.size());
    longer.resize(clip.size());
    EXPECT_EQ(longer, clip) << name_of(o);
  }
}

// Where clips with and without a distractor differ, there it is.
struct DistractorSeen {
  int direction = -1;  // -1: it was always under a sprite
  double overlap = 0;  // intersection over union of its places when moved in that direction
  int64_t least_area = 0, most_area = 0;  // pixels of it in a frame
};
DistractorSeen look_for_distractor(SynthOptions o, int64_t index) {
  o.distractors = 0;
  const auto without = synth_clip(o, index);
  o.distractors = 1;
  const auto with = synth_clip(o, index);
  const int64_t n = o.size;
  const auto is_there = [&](int64_t t, int64_t y, int64_t x) {
    const size_t i = size_t((t * n + (y + n) % n) * n + (x + n) % n);
    return with[i] != without[i];
  };
  DistractorSeen seen;
  for (int64_t t = 0; t < o.frames; ++t) {
    int64_t area = 0;
    for (int64_t i = 0; i < n * n; ++i) area += is_there(t, i / n, i % n);
    seen.least_area = t == 0 ? area : std::min(seen.least_area, area);
    seen.most_area = std::max(seen.most_area, area);
  }
  for (int d = 0; d < 8; ++d) {
    int64_t both = 0, either = 0;
    for (int64_t t = 1; t < o.frames; ++t)
      for (int64_t y = 0; y < n; ++y)
        for (int64_t x = 0; x < n; ++x) {
          const bool now = is_there(t, y, x);
          const bool then = is_there(t - 1, y - o.speed * kDy[d], x - o.speed * kDx[d]);
          both += now && then;
          either += now || then;
        }
    const double overlap = either > 0 ? double(both) / double(either) : 0;
    if (overlap > seen.overlap) {
      seen.overlap = overlap;
      seen.direction = d;
    }
  }
  return seen;
}

TEST(Synth, DistractorsMoveSteadilyAndSayNothingOfTheClass) {
  SynthOptions o = of_task("sprites", 2);
  o.size = 64;  // sprites cover an eighth of it: distractors are seen
  o.frames = 6;
  constexpr int64_t kClips = 512;
  std::array<std::array<double, 8>, 8> counts{};  // class, direction
  int64_t unseen = 0, bare = 0;                   // bare: no sprite ever lies over it
  for (int64_t index = 0; index < kClips; ++index) {
    const DistractorSeen seen = look_for_distractor(o, index);
    if (seen.direction < 0) {
      ++unseen;
      continue;
    }
    counts[size_t(index % 8)][size_t(seen.direction)] += 1;
    // A disc 16 wide has 208 pixels at most; less of it is seen where a sprite lies over it.
    EXPECT_LE(seen.most_area, 208) << "clip " << index;
    if (seen.least_area < 190) continue;
    ++bare;
    EXPECT_GT(seen.overlap, 0.9) << "clip " << index;
  }
  EXPECT_GT(bare, kClips / 3);
  EXPECT_LE(unseen, kClips / 100);
  double chi_square = 0;
  for (size_t d = 0; d < 8; ++d) {
    double of_direction = 0;
    for (const auto& row : counts) of_direction += row[d];
    EXPECT_GT(of_direction, kClips / 16) << "direction " << d << " is rare";
    for (const auto& row : counts) {
      double of_class = 0;
      for (double count : row) of_class += count;
      const double expected = of_class * of_direction / double(kClips - unseen);
      chi_square += (row[d] - expected) * (row[d] - expected) / expected;
    }
  }
  EXPECT_LT(chi_square, 95.0) << "the 0.9999 quantile at 49 degrees of freedom";
}

// The last frame, where the ways of the classes are farthest apart, in 8 x 8 means.
std::vector<double> last_frame(const SynthOptions& o, int64_t index) {
  const auto luma = synth_clip(o, index);
  std::vector<double> cells(64);
  const int64_t n = o.size, cell = n / 8;
  for (int64_t y = 0; y < n; ++y)
    for (int64_t x = 0; x < n; ++x)
      cells[size_t(y / cell * 8 + x / cell)] += luma[size_t(((o.frames - 1) * n + y) * n + x)];
  return cells;
}

TEST(Synth, TheMeanFrameOfAClassTellsNothing) {
  for (SynthOptions o : all_tasks()) {
    o.frames = 6;  // ten pixels of way: far, and not yet around the torus
    constexpr int64_t kClips = 800;
    std::array<std::vector<double>, 8> means;
    means.fill(std::vector<double>(64));
    for (int64_t index = 0; index < kClips; ++index) {
      const auto cells = last_frame(o, index);
      for (size_t i = 0; i < 64; ++i) means[size_t(index % 8)][i] += cells[i] * 8 / kClips;
    }
    int64_t hits = 0;
    for (int64_t index = kClips; index < 2 * kClips; ++index) {
      const auto cells = last_frame(o, index);
      std::array<double, 8> distances{};
      for (size_t c = 0; c < 8; ++c)
        for (size_t i = 0; i < 64; ++i)
          distances[c] += (cells[i] - means[c][i]) * (cells[i] - means[c][i]);
      hits += std::min_element(distances.begin(), distances.end()) - distances.begin() == index % 8;
    }
    // Chance is 100 of 800, with a standard deviation of 9.4.
    EXPECT_LT(hits, 100 + 38) << name_of(o);
  }
}

TEST(Synth, WritesTheSameBytesWithAnyNumberOfThreads) {
  const TempFolder folder;
  SynthOptions o = of_task("sprites", 2, 1);
  o.train = 8;
  o.test = 8;
  for (int threads : {1, 3}) {
    o.threads = threads;
    o.out = fmt::format("{}/{}", folder.path(), threads);
    write_synth(default_env(), o, {});
  }
  int64_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path() + "/1")) {
    if (!entry.is_regular_file()) continue;
    const auto name = std::filesystem::relative(entry.path(), folder.path() + "/1");
    EXPECT_EQ(read_text(default_env(), entry.path()),
              read_text(default_env(), folder.path() + "/3/" + name.string()))
        << name;
    ++files;
  }
  EXPECT_EQ(files, 16);
}

TEST(Synth, RefusesWhatATaskDoesNotHave) {
  const TempFolder folder;
  for (SynthOptions o :
       {of_task("drift", 2), of_task("drift", 1, 1), of_task("sprites", 0), of_task("sprites", 17),
        of_task("sprites", 1, -1), of_task("sprites", 1, 17), of_task("spirals")}) {
    o.out = folder.path() + "/clips";
    try {
      write_synth(default_env(), o, {});
      FAIL() << name_of(o) << " was written";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    }
    EXPECT_FALSE(default_env()->status(o.out).exists);
  }
}

}  // namespace
}  // namespace keiko::data
