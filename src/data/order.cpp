#include "data/order.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/rng.h"

namespace keiko::data {
namespace {
constexpr int kRounds = 6;  // 4 are enough in theory (Luby and Rackoff); small domains want more
constexpr uint64_t kMixtureSlots = 4096;
}  // namespace

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t key) : n_(n), seed_(seed), key_(key) {
  const int bits = n <= 1 ? 0 : std::bit_width(n - 1);
  half_bits_ = std::max(1, (bits + 1) / 2);
}

uint32_t Permutation::round(uint32_t half, int number) const {
  return philox4x32_10({half, uint32_t(key_), uint32_t(key_ >> 32),
                        uint32_t(Stream::kOrder) | uint32_t(number) << 8},
                       {uint32_t(seed_), uint32_t(seed_ >> 32)})[0];
}

uint64_t Permutation::operator()(uint64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {  // cycle walking: at most 4 times the domain, so few repeats
    uint64_t left = i >> half_bits_, right = i & mask;
    for (int r = 0; r < kRounds; ++r) {
      const uint64_t next = left ^ (round(uint32_t(right), r) & mask);
      left = right;
      right = next;
    }
    i = left << half_bits_ | right;
  } while (i >= n_);
  return i;
}

uint64_t Permutation::inverse(uint64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = i >> half_bits_, right = i & mask;
    for (int r = kRounds - 1; r >= 0; --r) {
      const uint64_t previous = right ^ (round(uint32_t(left), r) & mask);
      right = left;
      left = previous;
    }
    i = left << half_bits_ | right;
  } while (i >= n_);
  return i;
}

Order::Order(std::vector<DataShare> shares, uint64_t seed, uint64_t shuffle_block)
    : shares_(std::move(shares)),
      seed_(seed),
      shuffle_block_(std::max<uint64_t>(1, shuffle_block)) {
  if (shares_.size() == 1) {
    slots_ = {1};
    return;
  }
  block_ = kMixtureSlots;
  double total = 0;
  for (const DataShare& share : shares_) total += share.weight;
  // Largest remainders: the slots sum to the block exactly, and every data set gets at least one.
  std::vector<std::pair<double, size_t>> remainders;
  uint64_t given = 0;
  for (size_t i = 0; i < shares_.size(); ++i) {
    const double exact = shares_[i].weight / total * double(block_);
    slots_.push_back(std::max<uint64_t>(1, uint64_t(exact)));
    given += slots_.back();
    remainders.emplace_back(exact - std::floor(exact), i);
  }
  std::sort(remainders.rbegin(), remainders.rend());
  for (size_t i = 0; given < block_; ++i, ++given)
    ++slots_[remainders[i % remainders.size()].second];
  while (given > block_) {
    --*std::max_element(slots_.begin(), slots_.end());
    --given;
  }
}

OrderPlace Order::at(uint64_t position) const {
  uint32_t data_set = 0;
  uint64_t index = position;
  if (shares_.size() > 1) {
    const uint64_t block = position / block_;
    // Another key space than the epochs': the top bit is set.
    uint64_t slot = Permutation(block_, seed_, block | uint64_t{1} << 63)(position % block_);
    while (slot >= slots_[data_set]) slot -= slots_[data_set++];
    index = block * slots_[data_set] + slot;
  }
  const uint64_t n = shares_[data_set].items;
  const uint64_t epoch = index / n;
  return {data_set, epoch, item_at(data_set, epoch, index % n)};
}

uint64_t Order::item_at(uint32_t data_set, uint64_t epoch, uint64_t index) const {
  const uint64_t n = shares_[data_set].items;
  const uint64_t key = epoch << 16 | uint64_t{data_set} << 1;
  const uint64_t b = std::min(shuffle_block_, n);
  if (b == 1) return Permutation(n, seed_, key)(index);
  // Blocks are shuffled, then items within each. The last block may be short.
  const uint64_t full = n / b, rest = n % b;
  const Permutation blocks(full + (rest > 0), seed_, key);
  const uint64_t short_slot = rest > 0 ? blocks.inverse(full) : UINT64_MAX;
  uint64_t slot = index / b, within = index % b, size = b;
  if (rest > 0 && index >= short_slot * b) {
    const uint64_t after = index - short_slot * b;
    if (after < rest) {
      slot = short_slot;
      within = after;
      size = rest;
    } else {
      slot = short_slot + 1 + (after - rest) / b;
      within = (after - rest) % b;
    }
  }
  const uint64_t block = blocks(slot);
  const uint64_t inner_key = (epoch * (full + 1) + block) << 16 | uint64_t{data_set} << 1 | 1;
  return block * b + Permutation(size, seed_, inner_key)(within);
}

uint64_t Order::epoch_size() const {
  return uint64_t(std::llround(double(shares_[0].items) * double(block_) / double(slots_[0])));
}

}  // namespace keiko::data
