// Which item comes at which position of the endless sample stream: a pure function, in O(1) memory.
//
// Every epoch is a keyed permutation of all items (a Feistel network with cycle walking), so a
// billion items cost nothing and no rank has to share a shuffled list. A mixture of data sets is
// interleaved in closed form by the same means.

#pragma once
#include <cstdint>
#include <vector>

namespace keiko::data {

// A bijection of [0, n) chosen by (seed, key). Cost: a few hundred nanoseconds a call.
class Permutation {
 public:
  // n > 0.
  Permutation(uint64_t n, uint64_t seed, uint64_t key);
  uint64_t operator()(uint64_t i) const;
  uint64_t inverse(uint64_t i) const;

 private:
  uint32_t round(uint32_t half, int number) const;
  uint64_t n_, seed_, key_;
  int half_bits_;
};

struct DataShare {
  uint64_t items;     // > 0
  double weight = 1;  // relative number of samples, > 0
};

struct OrderPlace {
  uint32_t data_set;
  uint64_t epoch;  // of that data set
  uint64_t item;
};

class Order {
 public:
  // `shuffle_block`: neighbouring items that stay together (read from one shard); 1: uniform.
  Order(std::vector<DataShare> shares, uint64_t seed, uint64_t shuffle_block = 1);
  OrderPlace at(uint64_t position) const;
  // Samples in an epoch: every data set's items in proportion, counted on the first data set.
  uint64_t epoch_size() const;

 private:
  uint64_t item_at(uint32_t data_set, uint64_t epoch, uint64_t index) const;

  std::vector<DataShare> shares_;
  std::vector<uint64_t> slots_;  // of each data set in a block of `block_` positions
  uint64_t block_ = 1;
  uint64_t seed_, shuffle_block_;
};

}  // namespace keiko::data
