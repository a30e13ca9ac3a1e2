#include "data/synth.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <numbers>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/rng.h"
#include "media/clip_encoder.h"

namespace keiko::data {
namespace {

constexpr int64_t kTestOffset = int64_t{1} << 40;      // test clips' indices start here
constexpr int64_t kPatchPositions = int64_t{1} << 48;  // random numbers of further patches
constexpr int64_t kMostPatches = 16;                   // of each kind
constexpr double kNoise = 0.1;                         // standard deviations of the texture
constexpr double kContrast = 50;                       // grey levels per standard deviation
// In frequency the texture is white noise times exp(-f^2/32), f in cycles a frame (the setting that
// shared experiments found learnable); in space that is a circular Gaussian blur.
constexpr double kFrequencySigma = 4;

struct Direction {
  const char* name;
  int dx, dy;  // dy > 0 is down
};
constexpr Direction kDirections[8] = {
    {"east", 1, 0},  {"north_east", 1, -1}, {"north", 0, -1}, {"north_west", -1, -1},
    {"west", -1, 0}, {"south_west", -1, 1}, {"south", 0, 1},  {"south_east", 1, 1}};

// Smooth noise on a torus, mean 0 and variance 1.
std::vector<double> texture(int64_t size, Rng& rng) {
  const size_t n = size_t(size * size);
  std::vector<double> white(n), half(n), smooth(n);
  for (double& value : white) value = rng.normal();
  const double sigma = double(size) / (2 * std::numbers::pi * kFrequencySigma);
  const int64_t reach = std::min<int64_t>(size / 2, int64_t(std::ceil(4 * sigma)));
  std::vector<double> kernel;
  for (int64_t d = -reach; d <= reach; ++d)
    kernel.push_back(std::exp(-double(d * d) / (2 * sigma * sigma)));
  auto blur = [&](const std::vector<double>& in, std::vector<double>& out, bool along_x) {
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x) {
        double sum = 0;
        for (int64_t d = -reach; d <= reach; ++d) {
          const int64_t sx = along_x ? (x + d + size) % size : x;
          const int64_t sy = along_x ? y : (y + d + size) % size;
          sum += kernel[size_t(d + reach)] * in[size_t(sy * size + sx)];
        }
        out[size_t(y * size + x)] = sum;
      }
  };
  blur(white, half, true);
  blur(half, smooth, false);
  double mean = 0, square = 0;
  for (double value : smooth) mean += value / double(n);
  for (double value : smooth) square += (value - mean) * (value - mean) / double(n);
  for (double& value : smooth) value = (value - mean) / std::sqrt(square);
  return smooth;
}

uint8_t to_luma(double value) {
  return uint8_t(std::clamp(std::round(128 + kContrast * value), 0.0, 255.0));
}

struct Patch {
  std::vector<double> texture;  // size x size, of which the upper left is shown
  int64_t x, y;                 // upper left corner in the first frame
  Direction direction;
  bool is_distractor;

  // The pixel (x, y) as seen from the patch's corner after `moved` pixels of way, wrapped.
  std::pair<int64_t, int64_t> place_at(int64_t to_x, int64_t to_y, int64_t moved,
                                       int64_t size) const {
    const auto wrap = [size](int64_t v) { return ((v % size) + size) % size; };
    return {wrap(to_x - x - direction.dx * moved), wrap(to_y - y - direction.dy * moved)};
  }

  // Covers `value`, what the pixel showed so far, where the patch is.
  void paint(double& value, int64_t to_x, int64_t to_y, int64_t moved, int64_t size,
             int64_t side) const {
    const auto [px, py] = place_at(to_x, to_y, moved, size);
    if (px >= side || py >= side) return;
    const double own = texture[size_t(py * size + px)];
    if (!is_distractor) {
      value = own + 0.5;
      return;
    }
    // Twice the way to the centre, so that it stays whole.
    const int64_t dx = 2 * px + 1 - side, dy = 2 * py + 1 - side;
    if (dx * dx + dy * dy <= side * side) value = 0.6 * own - 1;
  }
};

// Sprite `k` (from 1) or distractor `k` (from 0) of a clip, from numbers of its own: those of
// positions that no clip has.
Patch draw_patch(const SynthOptions& o, int64_t index, int64_t k, bool is_distractor) {
  const int64_t number = is_distractor ? kMostPatches + k : k;
  Rng rng(uint64_t(o.seed), Stream::kSynth, uint64_t(index + number * kPatchPositions));
  Patch patch{texture(o.size, rng), 0, 0, kDirections[index % 8], is_distractor};
  patch.x = int64_t(rng.below(uint64_t(o.size)));
  patch.y = int64_t(rng.below(uint64_t(o.size)));
  if (is_distractor) patch.direction = kDirections[rng.below(8)];
  return patch;
}

}  // namespace

const std::vector<std::string>& synth_class_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Direction& d : kDirections) all.push_back(d.name);
    return all;
  }();
  return names;
}

std::vector<uint8_t> synth_clip(const SynthOptions& o, int64_t index) {
  Rng rng(uint64_t(o.seed), Stream::kSynth, uint64_t(index));
  const int64_t n = o.size;
  const bool is_drift = o.task == "drift";
  const Direction& direction = kDirections[index % 8];
  // The first patch draws from the clip's own numbers, as it did when it was the only one: clips of
  // one sprite stay what they were.
  const std::vector<double> ground = texture(n, rng);
  Patch first{is_drift ? std::vector<double>() : texture(n, rng), 0, 0, direction, false};
  first.x = int64_t(rng.below(uint64_t(n)));
  first.y = int64_t(rng.below(uint64_t(n)));
  std::vector<Patch> patches;  // in the order of painting
  if (!is_drift) {
    for (int64_t k = 0; k < o.distractors; ++k) patches.push_back(draw_patch(o, index, k, true));
    patches.push_back(first);
    for (int64_t k = 1; k < o.sprites; ++k) patches.push_back(draw_patch(o, index, k, false));
  }
  const int64_t side = patches.size() > 1 ? n / 4 : n * 3 / 8;
  std::vector<uint8_t> luma;
  luma.reserve(size_t(o.frames * n * n));
  for (int64_t t = 0; t < o.frames; ++t)
    for (int64_t y = 0; y < n; ++y)
      for (int64_t x = 0; x < n; ++x) {
        double value;
        if (is_drift) {
          const auto [px, py] = first.place_at(x, y, o.speed * t, n);
          value = ground[size_t(py * n + px)];
        } else {
          value = 0.6 * ground[size_t(y * n + x)];
          for (const Patch& patch : patches) patch.paint(value, x, y, o.speed * t, n, side);
        }
        luma.push_back(to_luma(value + kNoise * rng.normal()));
      }
  return luma;
}

void write_synth(Env* env, const SynthOptions& o,
                 const std::function<void(int64_t, int64_t)>& progress) {
  if (o.task != "drift" && o.task != "sprites")
    fail(ErrorKind::kUsage, "--task {} is not one of drift, sprites", o.task);
  if (o.size < 16 || o.size > 1024 || o.size % 2 != 0)
    fail(ErrorKind::kUsage, "--size {} is not an even number from 16 to 1024", o.size);
  if (o.frames < 1 || o.frames > 10000 || o.train < 0 || o.test < 0)
    fail(ErrorKind::kUsage, "--frames must be from 1 to 10000, --train and --test not negative");
  if (o.sprites < 1 || o.sprites > kMostPatches || o.distractors < 0 ||
      o.distractors > kMostPatches)
    fail(ErrorKind::kUsage, "--sprites must be from 1 to {}, --distractors from 0 to {}",
         kMostPatches, kMostPatches);
  if (o.task == "drift" && (o.sprites != 1 || o.distractors != 0))
    fail(ErrorKind::kUsage,
         "--task drift has no sprites: its whole frame moves; use --task sprites with --sprites "
         "and --distractors");
  for (const char* split : {"train", "test"})
    for (const std::string& name : synth_class_names()) {
      const std::string folder = o.out + "/" + split + "/" + name;
      // Clips of another call would be mixed in silently.
      if (env->status(folder).exists && !env->list(folder).empty())
        fail(ErrorKind::kUsage, "{}: already holds clips; remove {} or choose another --out",
             folder, o.out);
      env->make_folder(folder);
    }

  const int64_t total = o.train + o.test;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t done = 0;
  std::optional<Error> error;
  media::EncoderOptions encoder;
  encoder.width = encoder.height = int(o.size);
  encoder.crf = o.crf;
  auto work = [&] {
    while (true) {
      const int64_t i = next++;
      if (i >= total) return;
      const bool is_train = i < o.train;
      const int64_t number = is_train ? i : i - o.train;
      const int64_t index = is_train ? number : kTestOffset + number;
      try {
        const auto bytes = media::encode_mp4(synth_clip(o, index), encoder);
        env->create(fmt::format("{}/{}/{}/{:06}.mp4", o.out, is_train ? "train" : "test",
                                synth_class_names()[size_t(index % 8)], number))
            ->append(bytes);
      } catch (const std::exception& e) {
        std::lock_guard lock(mutex);
        const auto* known = dynamic_cast<const Error*>(&e);
        if (!error) error = known != nullptr ? *known : Error(ErrorKind::kInternal, e.what());
        next = total;
        return;
      }
      std::lock_guard lock(mutex);
      if (progress) progress(++done, total);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < o.threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (error) throw *error;
}

}  // namespace keiko::data
