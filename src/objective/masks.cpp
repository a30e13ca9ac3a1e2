#include "objective/masks.h"

#include <cmath>
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

}  // namespace keiko::objective
