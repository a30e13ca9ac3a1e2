#include "model/parameters.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "model/flat_memory.h"

namespace keiko::model {
namespace {

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

void fill(const ParameterSpec& spec, uint64_t seed, at::Tensor value) {
  const c10::NoGradGuard no_grad;
  if (spec.init == Init::kZeros || spec.init == Init::kOnes) {
    value.fill_(spec.init == Init::kOnes ? 1 : 0);
    return;
  }
  Rng rng(seed, Stream::kInit, xxh3(std::string_view(spec.name)));
  const int64_t parts = std::max<int64_t>(1, int64_t(spec.parts.size()));
  const int64_t fan_out = spec.shape[0] / parts;
  const int64_t fan_in = product(spec.shape) / spec.shape[0];
  const double limit = std::sqrt(6.0 / double(fan_in + fan_out));
  at::Tensor numbers = at::empty(spec.shape, at::kDouble);
  double* out = numbers.data_ptr<double>();
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    if (spec.init == Init::kXavierUniform) {
      out[i] = rng.uniform(-limit, limit);
    } else {
      double x = rng.normal();
      while (std::abs(x) > 2) x = rng.normal();
      out[i] = spec.scale * x;
    }
  }
  value.copy_(numbers);
}

// Numbers up to the next boundary of 64 bytes, for vectors of any length.
int64_t aligned(int64_t numbers) { return (numbers + 15) / 16 * 16; }

// Makes `handle`, and all copies of it, stand for `data`. As Module::to does it, but for meta
// tensors: set_data() takes none, though the step beneath it does.
void point_at(at::Tensor& handle, const at::Tensor& data) {
  if (data.is_meta())
    handle.unsafeGetTensorImpl()->shallow_copy_from(data.getIntrusivePtr());
  else
    handle.set_data(data);
}

// Makes parameters views of their buffer, one after the other.
void place(const std::vector<Parameter*>& members, const FlatBuffer& buffer) {
  int64_t start = 0;
  for (Parameter* p : members) {
    const int64_t n = product(p->spec.shape);
    point_at(p->value, buffer.value.narrow(0, start, n).view(p->spec.shape));
    if (buffer.grad.defined()) {
      p->value.requires_grad_(true);
      // Defined before the first backward, so that autograd adds into the buffer in place.
      p->value.mutable_grad() = buffer.grad.narrow(0, start, n).view(p->spec.shape);
    }
    start += n;
  }
}

}  // namespace

at::Tensor Parameters::declare(ParameterSpec spec) {
  at::Tensor handle = at::empty({0}, dtype_);
  parameters_.push_back({std::move(spec), handle, false, 0});
  return handle;
}

at::Tensor Parameters::declare_table(at::Tensor table) {
  tables_.push_back(table);
  return table;
}

void Parameters::mark_inside(size_t first) {
  for (size_t i = first; i < parameters_.size(); ++i) parameters_[i].is_inside = true;
}

void Parameters::allocate(uint64_t seed, bool trained) {
  lay_out(trained);
  for (Parameter& p : parameters_) {
    const c10::NoGradGuard no_grad;
    fill(p.spec, seed, p.value.detach());
  }
}

void Parameters::allocate_copy(const Parameters& source) {
  device_ = source.device();
  lay_out(false);
  move_tables();
  const auto unmatched = load(source.published());
  if (!unmatched.missing.empty())
    fail(ErrorKind::kInternal, "a copy of parameters lacks {}", unmatched.missing[0]);
}

void Parameters::lay_out(bool trained) {
  // By block, around its run or inside, without decay or with.
  std::map<std::tuple<int, bool, bool>, std::vector<Parameter*>> groups;
  for (Parameter& p : parameters_)
    groups[{p.spec.block, !p.is_inside, !p.spec.decays}].push_back(&p);
  const auto numbers_of = [](const std::vector<Parameter*>& members) {
    int64_t total = 0;
    for (const Parameter* p : members) total += product(p->spec.shape);
    return total;
  };
  for (auto group = groups.begin(); group != groups.end();) {
    const int block = std::get<0>(group->first);
    const bool is_around = std::get<1>(group->first);
    const bool has_inside =
        groups.count({block, false, false}) > 0 || groups.count({block, false, true}) > 0;
    BlockStorage storage;
    storage.block = block;
    storage.is_inside = !is_around;
    storage.first = buffers_.size();
    const auto end = std::find_if(group, groups.end(), [&](const auto& entry) {
      return std::get<0>(entry.first) != storage.block ||
             std::get<1>(entry.first) == storage.is_inside;
    });
    int64_t total = 0;
    for (auto g = group; g != end; ++g) total += aligned(numbers_of(g->second));
    storage.value = flat_zeros(total, dtype_, device_);
    if (trained) storage.grad = flat_zeros(total, dtype_, device_);
    int64_t start = 0;
    for (; group != end; ++group) {
      const int64_t numbers = numbers_of(group->second);
      FlatBuffer buffer;
      buffer.block = storage.block;
      buffer.decays = !std::get<2>(group->first);
      buffer.name = fmt::format("block{:02}.{}{}", buffer.block,
                                has_inside && !storage.is_inside ? "around." : "",
                                buffer.decays ? "decay" : "plain");
      buffer.value = storage.value.narrow(0, start, numbers);
      if (trained) buffer.grad = storage.grad.narrow(0, start, numbers);
      place(group->second, buffer);
      for (Parameter* p : group->second) p->storage = blocks_.size();
      buffers_.push_back(std::move(buffer));
      start += aligned(numbers);
    }
    storage.last = buffers_.size();
    blocks_.push_back(std::move(storage));
  }
}

void Parameters::move_to(at::Device device) {
  if (device == device_) return;
  const c10::NoGradGuard no_grad;
  for (size_t s = 0; s < blocks_.size(); ++s) {
    BlockStorage& block = blocks_[s];
    const auto moved = [&](const at::Tensor& from) {
      if (!from.defined()) return from;
      at::Tensor to = flat_zeros(from.numel(), dtype_, device);
      return to.copy_(from);
    };
    block.value = moved(block.value);
    block.grad = moved(block.grad);
    // A view keeps its place: storages begin with their first number.
    const auto same_view = [&](const at::Tensor& whole, const at::Tensor& view) {
      return whole.narrow(0, view.storage_offset(), view.numel()).view(view.sizes());
    };
    for (size_t b = block.first; b < block.last; ++b) {
      FlatBuffer& buffer = buffers_[b];
      if (block.grad.defined()) buffer.grad = same_view(block.grad, buffer.value);
      buffer.value = same_view(block.value, buffer.value);
    }
    for (Parameter& p : parameters_) {
      if (p.storage != s) continue;
      if (block.grad.defined()) p.value.mutable_grad() = same_view(block.grad, p.value);
      point_at(p.value, same_view(block.value, p.value));
    }
  }
  // What torch calls it: "cuda" may be cuda:3.
  device_ = blocks_.empty() ? device : blocks_[0].value.device();
  move_tables();
}

void Parameters::move_tables() {
  for (at::Tensor& table : tables_) point_at(table, table.to(device_));
}

std::vector<OwnedSlice> Parameters::whole_slices() const {
  std::vector<OwnedSlice> slices;
  for (const FlatBuffer& buffer : buffers_) slices.push_back({buffer.value, buffer.grad, 0});
  return slices;
}

int64_t Parameters::count() const { return count(""); }

int64_t Parameters::count(const std::string& prefix) const {
  int64_t n = 0;
  for (const Parameter& p : parameters_)
    if (p.spec.name.rfind(prefix, 0) == 0) n += product(p.spec.shape);
  return n;
}

void Parameters::zero_grad() {
  for (const BlockStorage& block : blocks_) block.grad.zero_();
}

std::vector<std::pair<std::string, std::vector<int64_t>>> Parameters::published_shapes() const {
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes;
  for (const Parameter& p : parameters_) {
    std::vector<int64_t> shape = p.spec.shape;
    if (!p.spec.parts.empty()) shape[0] /= int64_t(p.spec.parts.size());
    if (p.spec.parts.empty()) shapes.emplace_back(p.spec.name, shape);
    for (const std::string& part : p.spec.parts) shapes.emplace_back(part, shape);
  }
  std::sort(shapes.begin(), shapes.end());
  return shapes;
}

std::vector<NamedTensor> Parameters::published() const {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : parameters_) {
    const at::Tensor value = p.value.detach();
    if (p.spec.parts.empty()) {
      tensors.emplace_back(p.spec.name, value);
      continue;
    }
    const auto chunks = value.chunk(int64_t(p.spec.parts.size()), 0);
    for (size_t i = 0; i < chunks.size(); ++i) tensors.emplace_back(p.spec.parts[i], chunks[i]);
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.first < b.first; });
  return tensors;
}

Parameters::Unmatched Parameters::load(const std::vector<NamedTensor>& tensors) {
  const c10::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> mine;
  for (const NamedTensor& entry : published()) mine.insert(entry);
  Unmatched unmatched;
  for (const auto& [name, value] : tensors) {
    const auto found = mine.find(name);
    if (found == mine.end()) {
      unmatched.unused.push_back(name);
      continue;
    }
    if (found->second.sizes() != value.sizes()) {
      const auto text = [](at::IntArrayRef s) { return fmt::format("[{}]", fmt::join(s, ", ")); };
      fail(ErrorKind::kData, "{} has shape {} in the file, but {} in the model", name,
           text(value.sizes()), text(found->second.sizes()));
    }
    found->second.copy_(value);
    mine.erase(found);
  }
  for (const auto& [name, value] : mine) unmatched.missing.push_back(name);
  return unmatched;
}

void update_average(Parameters& teacher, const Parameters& student, double momentum) {
  const c10::NoGradGuard no_grad;
  for (FlatBuffer& mine : teacher.buffers()) {
    const auto found =
        std::find_if(student.buffers().begin(), student.buffers().end(),
                     [&](const FlatBuffer& other) { return other.name == mine.name; });
    if (found == student.buffers().end() || found->value.numel() != mine.value.numel() ||
        student.device() != teacher.device())
      fail(ErrorKind::kInternal, "buffer {} has no counterpart of {} numbers on {}", mine.name,
           mine.value.numel(), teacher.device().str());
    mine.value.lerp_(found->value, 1 - momentum);
  }
}

uint64_t Parameters::hash() const {
  std::string digest;
  for (const FlatBuffer& buffer : buffers_) {
    const at::Tensor value = buffer.value.to(at::kCPU);  // itself where it is there
    const auto* bytes = static_cast<const uint8_t*>(value.const_data_ptr());
    digest += buffer.name + hex64(xxh3({bytes, size_t(value.nbytes())}));
  }
  return xxh3(std::string_view(digest));
}

}  // namespace keiko::model
