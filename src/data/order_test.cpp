#include "data/order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace keiko::data {
namespace {

TEST(Order, VisitsEveryItemOncePerEpoch) {
  for (uint64_t n : {1, 2, 3, 5, 7, 8, 13, 64, 97, 100, 997, 1024, 4099})
    for (uint64_t block : {1, 2, 7, 64, 5000})
      for (uint64_t seed : {0, 1}) {
        const Order order({{n, 1}}, seed, block);
        for (uint64_t epoch = 0; epoch < 3; ++epoch) {
          std::vector<int> visits(n);
          for (uint64_t i = 0; i < n; ++i) {
            const OrderPlace place = order.at(epoch * n + i);
            ASSERT_EQ(place.epoch, epoch);
            ASSERT_LT(place.item, n);
            ++visits[place.item];
          }
          ASSERT_EQ(*std::min_element(visits.begin(), visits.end()), 1)
              << n << " items, block " << block << ", seed " << seed << ", epoch " << epoch;
        }
      }
}

TEST(Order, ABillionItemsAreABijectionWhereSampled) {
  const uint64_t n = 1'000'000'000;
  for (uint64_t size : {n, n + 7, uint64_t{1} << 30}) {
    const Permutation permutation(size, 3, 5);
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < 20000; ++i) {
      const uint64_t at = i * 49999 % size;
      const uint64_t item = permutation(at);
      ASSERT_LT(item, size);
      ASSERT_EQ(permutation.inverse(item), at);
      seen.insert(item);
    }
    EXPECT_EQ(seen.size(), 20000u);
  }
}

TEST(Order, EpochsAndSeedsDiffer) {
  const Order a({{1000, 1}}, 1), b({{1000, 1}}, 2);
  int same_epoch = 0, same_seed = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    same_epoch += a.at(i).item == a.at(1000 + i).item;
    same_seed += a.at(i).item == b.at(i).item;
  }
  // One of a thousand is expected to agree by chance; twelve would be a wonder.
  EXPECT_LT(same_epoch, 12);
  EXPECT_LT(same_seed, 12);
}

TEST(Order, FirstItemIsUniformOverSeeds) {
  std::vector<int> counts(8);
  for (uint64_t seed = 0; seed < 8000; ++seed) ++counts[Order({{8, 1}}, seed).at(0).item];
  for (int count : counts) EXPECT_NEAR(count, 1000, 150);  // five standard deviations
}

TEST(Order, AMixtureKeepsItsSharesAndVisitsEachSetInEpochs) {
  const Order order({{100, 3}, {37, 1}, {5, 0.5}}, 9);
  std::vector<uint64_t> drawn(3);
  std::vector<std::vector<int>> visits = {std::vector<int>(100), std::vector<int>(37),
                                          std::vector<int>(5)};
  const uint64_t samples = 4096 * 20;
  std::vector<uint64_t> last_epoch(3);
  for (uint64_t p = 0; p < samples; ++p) {
    const OrderPlace place = order.at(p);
    ++drawn[place.data_set];
    ++visits[place.data_set][place.item];
    last_epoch[place.data_set] = std::max(last_epoch[place.data_set], place.epoch);
  }
  const double total = 4.5;
  const double weights[] = {3, 1, 0.5};
  for (int d = 0; d < 3; ++d) {
    EXPECT_NEAR(double(drawn[d]) / samples, weights[d] / total, 1.0 / 4096);
    const auto [low, high] = std::minmax_element(visits[d].begin(), visits[d].end());
    EXPECT_LE(*high - *low, 2) << "data set " << d;
  }
}

TEST(Order, BlocksStayTogether) {
  const Order order({{1000, 1}}, 4, 50);
  for (uint64_t start = 0; start < 1000; start += 50) {
    std::set<uint64_t> blocks;
    for (uint64_t i = start; i < start + 50; ++i) blocks.insert(order.at(i).item / 50);
    EXPECT_EQ(blocks.size(), 1u);
  }
}

}  // namespace
}  // namespace keiko::data
