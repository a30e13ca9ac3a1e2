#include "dist/sharding.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "base/error.h"
#include "model/flat_memory.h"

namespace keiko::dist {

namespace {

// Gathers at once; each needs memory for what travels besides its result.
constexpr size_t kMostGathering = 2;

}  // namespace

Part part_of(int64_t numbers, int64_t rank, int64_t ranks) {
  Part part;
  part.ranks = ranks;
  part.length = 16 * ((numbers + 16 * ranks - 1) / (16 * ranks));
  part.start = rank * part.length;
  return part;
}

ViewShare share_of_view(const at::Tensor& view, const Part& part) {
  const int64_t first = view.storage_offset(), last = first + view.numel();
  const int64_t low = std::clamp(part.start, first, last);
  const int64_t high = std::clamp(part.start + part.length, first, last);
  if (low == high) return {};
  return {{low - first, high - low}, low - part.start};
}

void check_shard_group(int64_t group_size, int64_t world_size) {
  if (group_size > 0 && world_size % group_size != 0)
    fail(ErrorKind::kUsage,
         "train.shard_group = {} does not divide the {} ranks of this job into whole groups; set "
         "it to a divisor, or to 0 for one group of all",
         group_size, world_size);
}

Held numbers_held(const model::Parameters& parameters, const std::string& shard, int64_t ranks) {
  double around = 0;
  std::map<int, double> inside;  // of each block
  for (const model::Parameter& p : parameters.all()) {
    double numbers = 1;
    for (int64_t extent : p.spec.shape) numbers *= double(extent);
    (p.is_inside ? inside[p.spec.block] : around) += numbers;
  }
  double largest = 0, all = around;
  for (const auto& [block, numbers] : inside) {
    largest = std::max(largest, numbers);
    all += numbers;
  }
  Held held{all, all, 2 * all};
  if (shard == "none" || ranks == 1) return held;
  held.moments /= double(ranks);
  // One block is computed, and up to two more travel (sharded_blocks.cpp).
  const double part = all / double(ranks) + around + std::min(3 * largest, all - around);
  if (shard != "optimizer") held.gradients = part;
  if (shard == "parameters") held.values = part;
  return held;
}

at::Tensor over_storage(const at::Tensor& like, int64_t numbers) {
  return at::empty({0}, like.options()).set_(like.storage(), 0, {numbers}, {1});
}

void give_memory(const at::Tensor& tensor, int64_t numbers) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  const size_t bytes = size_t(numbers) * tensor.itemsize();
  storage->set_data_ptr_noswap(tensor.is_cpu() ? model::map_memory(bytes)
                                               : storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

void drop_memory(const at::Tensor& tensor) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(at::DataPtr(nullptr, tensor.device()));
  storage->set_nbytes(0);
}

Shards::Shards(Communicator& world, model::Parameters& parameters, int64_t group_size)
    : world_(world), parameters_(parameters) {
  const int64_t ranks = world.world_size(), rank = world.rank();
  check_shard_group(group_size, ranks);
  const int64_t size = group_size > 0 ? group_size : ranks;
  const int64_t first = rank / size * size;
  std::vector<int64_t> neighbours, alike;
  for (int64_t r = first; r < first + size; ++r) neighbours.push_back(r);
  for (int64_t r = rank % size; r < ranks; r += size) alike.push_back(r);
  if (size < ranks) group_ = world.group(fmt::format("shards-{}", first), neighbours);
  replicas_ = world.group(fmt::format("replicas-{}", rank % size), alike);

  const c10::NoGradGuard no_grad;
  for (const model::BlockStorage& storage : parameters.blocks()) {
    const Part part = part_of(storage.value.numel(), rank - first, size);
    for (const at::Tensor& whole : {storage.value, storage.grad}) {
      if (!whole.defined() || part.padded() == whole.numel()) continue;
      const at::Tensor before = whole.clone();
      give_memory(whole, part.padded());
      over_storage(whole, part.padded()).zero_();
      at::Tensor(whole).copy_(before);
    }
    parts_.push_back(part);
  }
}

model::Share Shards::kept_of(const at::Tensor& view) const {
  for (size_t s = 0; s < parts_.size(); ++s)
    if (parameters_.blocks()[s].value.is_alias_of(view))
      return share_of_view(view, parts_[s]).share;
  fail(ErrorKind::kInternal, "a tensor of {} numbers is no view of what is shared out",
       view.numel());
}

at::Tensor Shards::whole(size_t storage) const {
  return over_storage(parameters_.blocks()[storage].value, parts_[storage].padded());
}

std::vector<model::OwnedSlice> Shards::owned_of_whole() const {
  std::vector<model::OwnedSlice> owned;
  for (size_t s = 0; s < parts_.size(); ++s)
    for (size_t i = parameters_.blocks()[s].first; i < parameters_.blocks()[s].last; ++i) {
      const model::FlatBuffer& buffer = parameters_.buffers()[i];
      const model::Share mine = share_of_view(buffer.value, parts_[s]).share;
      owned.push_back({buffer.value.narrow(0, mine.start, mine.count),
                       buffer.grad.narrow(0, mine.start, mine.count), mine.start});
    }
  return owned;
}

void Shards::gather_values() {
  if (group().world_size() == 1) return;
  const c10::NoGradGuard no_grad;
  struct Gathering {
    at::Tensor mine;  // apart from what is written
    std::unique_ptr<Work> work;
  };
  std::deque<Gathering> under_way;
  const auto finish_one = [&] {
    under_way.front().work->wait();
    under_way.pop_front();
  };
  for (size_t s = 0; s < parts_.size(); ++s) {
    const at::Tensor all = whole(s);
    Gathering g;
    g.mine = all.narrow(0, parts_[s].start, parts_[s].length).clone();
    g.work = group().all_gather_into(
        all, g.mine, fmt::format("all_gather of block {}", parameters_.blocks()[s].block));
    under_way.push_back(std::move(g));
    if (under_way.size() > kMostGathering) finish_one();
  }
  while (!under_way.empty()) finish_one();
}

}  // namespace keiko::dist
