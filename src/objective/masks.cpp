#include "objective/masks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace keiko::objective {
namespace {

// `count` of `n` places, each set equally likely (a partial Fisher-Yates shuffle).
std::vector<bool> choose(int64_t n, int64_t count, Rng& rng) {
  std::vector<int64_t> places(static_cast<size_t>(n));
  std::iota(places.begin(), places.end(), int64_t{0});
  std::vector<bool> chosen(static_cast<size_t>(n));
  for (int64_t i = 0; i < count; ++i) {
    std::swap(places[size_t(i)], places[size_t(i) + rng.below(uint64_t(n - i))]);
    chosen[size_t(places[size_t(i)])] = true;
  }
  return chosen;
}

// Draws of a stream are numbered; each use has a range of its own.
constexpr uint32_t kDecoderDraws = 1u << 28;
constexpr uint32_t kBlockDraws = 1u << 16;  // times 1 + generator: places of blocks
constexpr uint32_t kCutDraws = 1u << 15;    // after those: which tokens are cut
constexpr uint32_t kBatchDraws = 1u << 30;  // plus generator: what a batch shares

struct BlockSize {
  int64_t rows, columns;
};

BlockSize draw_block_size(const BlockMaskRule& rule, int64_t generator, const model::TokenGrid& g,
                          uint64_t seed, int64_t step) {
  Rng rng(seed, Stream::kMask, uint64_t(step), kBatchDraws + uint32_t(generator));
  const double aspect = rng.uniform(rule.min_aspect, rule.max_aspect);
  const double area = std::floor(double(g.rows * g.columns) * rule.scale);
  const auto side = [](double exact, int64_t most) {
    return std::clamp<int64_t>(std::llround(exact), 1, most);
  };
  return {side(std::sqrt(area * aspect), g.rows), side(std::sqrt(area / aspect), g.columns)};
}

// Places of a frame that a clip hides: never none, never all.
std::vector<bool> draw_blocks(const BlockMaskRule& rule, int64_t generator,
                              const model::TokenGrid& g, const BlockSize& size, uint64_t seed,
                              int64_t position) {
  Rng rng(seed, Stream::kMask, uint64_t(position), kBlockDraws * uint32_t(1 + generator));
  const size_t places = size_t(g.rows * g.columns);
  std::vector<bool> hidden(places);
  constexpr int kTries = 100;
  for (int tries = 0; tries < kTries; ++tries) {
    hidden.assign(places, false);
    for (int64_t block = 0; block < rule.blocks; ++block) {
      const int64_t top = int64_t(rng.below(uint64_t(g.rows - size.rows + 1)));
      const int64_t left = int64_t(rng.below(uint64_t(g.columns - size.columns + 1)));
      for (int64_t row = top; row < top + size.rows; ++row)
        for (int64_t column = left; column < left + size.columns; ++column)
          hidden[size_t(row * g.columns + column)] = true;
    }
    if (std::find(hidden.begin(), hidden.end(), false) != hidden.end()) return hidden;
  }
  fail(ErrorKind::kUsage,
       "{} blocks of {} x {} tokens hide all {} x {} tokens of a frame in {} tries; use fewer or "
       "smaller ones (objective.masks)",
       rule.blocks, size.rows, size.columns, g.rows, g.columns, kTries);
}

// `count` of the tokens of `hidden`'s places (or of the others) over all times.
void write_tokens(const std::vector<bool>& hidden, bool which, const model::TokenGrid& g,
                  int64_t count, MaskCut cut, Rng& rng, int64_t* out) {
  std::vector<int64_t> tokens;
  for (int64_t time = 0; time < g.times; ++time)
    for (size_t place = 0; place < hidden.size(); ++place)
      if (hidden[place] == which) tokens.push_back(time * g.rows * g.columns + int64_t(place));
  if (cut == MaskCut::kRandom) {
    const std::vector<bool> kept = choose(int64_t(tokens.size()), count, rng);
    size_t n = 0;
    for (size_t i = 0; i < tokens.size(); ++i)
      if (kept[i]) tokens[n++] = tokens[i];
  }
  std::copy(tokens.begin(), tokens.begin() + count, out);
}

}  // namespace

int64_t hidden_count(const MaskRule& rule, const model::TokenGrid& g) {
  const int64_t spatial = g.rows * g.columns;
  int64_t hidden = int64_t(rule.ratio * double(g.count()));
  if (rule.kind == "tube") hidden = int64_t(rule.ratio * double(spatial)) * g.times;
  if (rule.kind == "future") hidden = std::llround(rule.ratio * double(g.times)) * spatial;
  if (hidden <= 0 || hidden >= g.count())
    fail(
        ErrorKind::kUsage,
        "objective.mask_ratio = {} hides {} of {} tokens with mask {}; at least one must be hidden "
        "and one seen",
        rule.ratio, hidden, g.count(), rule.kind);
  return hidden;
}

std::vector<bool> make_mask(const MaskRule& rule, const model::TokenGrid& g, uint64_t seed,
                            int64_t position) {
  const int64_t hidden = hidden_count(rule, g), spatial = g.rows * g.columns;
  Rng rng(seed, Stream::kMask, uint64_t(position));
  if (rule.kind == "random") return choose(g.count(), hidden, rng);
  std::vector<bool> mask(size_t(g.count()));
  if (rule.kind == "future") {
    for (int64_t i = g.count() - hidden; i < g.count(); ++i) mask[size_t(i)] = true;
    return mask;
  }
  const std::vector<bool> tube = choose(spatial, hidden / g.times, rng);
  for (int64_t i = 0; i < g.count(); ++i) mask[size_t(i)] = tube[size_t(i % spatial)];
  return mask;
}

std::vector<bool> make_decoder_mask(const DecoderMaskRule& rule, const model::TokenGrid& g,
                                    uint64_t seed, int64_t position) {
  Rng rng(seed, Stream::kMask, uint64_t(position), kDecoderDraws);
  const int64_t phase = int64_t(rng.below(4));
  const int64_t left_out = std::llround(rule.ratio * 4);  // places of each cell
  std::vector<bool> mask(size_t(g.count()));
  for (int64_t i = 0; i < g.count(); ++i) {
    const int64_t time = i / (g.rows * g.columns), row = i / g.columns % g.rows;
    const int64_t place = row % 2 * 2 + i % g.columns % 2;
    mask[size_t(i)] = (place + time + phase) % 4 < left_out;
  }
  return mask;
}

void BlockMaskRule::bind(config::Binder& b) {
  b.key("blocks", blocks, "rectangles in each clip").range(1, 1000);
  b.key("scale", scale, "area of one as a share of the frame").range(0.001, 1);
  b.key("min_aspect", min_aspect, "smallest height over width").range(0.01, 100);
  b.key("max_aspect", max_aspect, "largest").range(0.01, 100);
  if (min_aspect > max_aspect) b.refuse("min_aspect", "is larger than max_aspect");
}

ContextTarget make_block_masks(const BlockMaskRule& rule, int64_t generator, MaskCut cut,
                               const model::TokenGrid& g, uint64_t seed, int64_t step,
                               int64_t batch_first, int64_t batch_last,
                               const std::vector<int64_t>& positions) {
  const BlockSize size = draw_block_size(rule, generator, g, seed, step);
  const int64_t places = g.rows * g.columns;
  int64_t fewest_hidden = places, most_hidden = 0;
  std::map<int64_t, std::vector<bool>> mine;
  const auto look = [&](int64_t position) {
    std::vector<bool> hidden = draw_blocks(rule, generator, g, size, seed, position);
    const int64_t count = std::count(hidden.begin(), hidden.end(), true);
    fewest_hidden = std::min(fewest_hidden, count);
    most_hidden = std::max(most_hidden, count);
    return hidden;
  };
  for (int64_t position : positions) mine[position] = look(position);
  for (int64_t position = batch_first; position < batch_last; ++position)
    if (!mine.contains(position)) look(position);
  const int64_t b = int64_t(positions.size());
  const int64_t k = (places - most_hidden) * g.times, m = fewest_hidden * g.times;
  ContextTarget split{at::empty({b, k}, at::kLong), at::empty({b, m}, at::kLong)};
  for (int64_t i = 0; i < b; ++i) {
    const int64_t position = positions[size_t(i)];
    Rng rng(seed, Stream::kMask, uint64_t(position),
            kBlockDraws * uint32_t(1 + generator) + kCutDraws);
    const auto& hidden = mine[position];
    write_tokens(hidden, false, g, k, cut, rng, split.context.data_ptr<int64_t>() + i * k);
    write_tokens(hidden, true, g, m, cut, rng, split.target.data_ptr<int64_t>() + i * m);
  }
  return split;
}

}  // namespace keiko::objective
