// All parameters of a model, living as views inside a few flat buffers.
//
// One buffer of values and one of gradients for each block and decay group: reducing, clipping,
// optimising and checkpointing then work on a handful of long vectors instead of hundreds of
// tensors, and their layout is a function of the model alone.

#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace keiko::model {

// How a parameter gets its first values, from (seed, parameter name) alone.
enum class Init {
  kZeros,
  kOnes,
  kXavierUniform,  // Glorot and Bengio 2010: uniform in +-sqrt(6 / (fan_in + fan_out))
  kTruncNormal,    // normal with standard deviation `scale`, redrawn outside two of them
};

struct ParameterSpec {
  std::string name;  // published (Hugging Face) name
  std::vector<int64_t> shape;
  int block = 0;       // which flat buffer: 0 embeddings, 1..depth blocks, then heads
  bool decays = true;  // weight decay applies; never for norms, biases, tokens, positions
  Init init = Init::kXavierUniform;
  double scale = 0.02;
  // Published names when one parameter holds several tensors, stacked in equal parts along the
  // first dimension (query, key, value); empty: `name`. Xavier limits then count each part alone.
  std::vector<std::string> parts;
};

struct Parameter {
  ParameterSpec spec;
  at::Tensor value;        // a leaf that requires grad, a view into its buffer
  bool is_inside = false;  // see Parameters::mark_inside()
  size_t storage = 0;      // of Parameters::blocks(); set by allocate()
};

struct FlatBuffer {
  std::string name;  // "block03.decay"; "block03.around.decay" for what is read outside its run
  int block = 0;
  bool decays = true;
  at::Tensor value, grad;  // one-dimensional, the same length, contiguous; no grad when not trained
  double lr_scale = 1;     // what the learning rate is multiplied by
  std::optional<double> weight_decay;  // in place of the optimiser's, where `decays`
};

// The buffers of one block, which lie one after the other: [first, last) of Parameters::buffers().
// Each begins on a boundary of 64 bytes; the few numbers between them are zero. What a block reads
// while it runs, and what is read around that, have a storage each.
struct BlockStorage {
  int block = 0;
  bool is_inside = false;  // read only while a BlockRunner runs the block
  size_t first = 0, last = 0;
  at::Tensor value, grad;  // one-dimensional; no grad when not trained
};

// The part of a vector that one of `world_size` ranks keeps. Parts lie in the order of ranks and
// begin at multiples of 16 numbers: kernels for vectors round the same whether they get a part or
// the whole.
struct Share {
  int64_t start = 0, count = 0;
};
inline Share share_of(int64_t numbers, int64_t rank, int64_t world_size) {
  const int64_t units = (numbers + 15) / 16;
  const auto start_of = [&](int64_t r) {
    const int64_t start = 16 * (units * r / world_size);
    return start < numbers ? start : numbers;
  };
  return {start_of(rank), start_of(rank + 1) - start_of(rank)};
}

// What a rank updates of one buffer: its numbers from `start` on.
struct OwnedSlice {
  at::Tensor value, grad;  // one-dimensional, the same length, perhaps 0
  int64_t start = 0;       // a multiple of 16
};

using NamedTensor = std::pair<std::string, at::Tensor>;

// All of them are on one device, the CPU to begin with. Not thread-safe.
class Parameters {
 public:
  // `dtype`: at::kFloat, or at::kDouble for tests.
  explicit Parameters(at::ScalarType dtype) : dtype_(dtype) {}
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // Announces a parameter. The handle is empty until allocate() and stays valid afterwards.
  at::Tensor declare(ParameterSpec spec);
  // A tensor on the CPU that a model reads beside its parameters and that nothing changes (fixed
  // positions, indices): it goes where they go. The handle returned stays valid. Neither trained,
  // counted, published nor hashed.
  at::Tensor declare_table(at::Tensor table);
  // All that was declared since all().size() was `first` is read only while a BlockRunner runs its
  // block: parameter sharding needs not have it otherwise.
  void mark_inside(size_t first);
  // Lays out the buffers and fills them with first values. Call once, after the last declare().
  // `trained` false: without gradients.
  void allocate(uint64_t seed, bool trained = true);
  // The same for parameters that are not trained: no gradients, values copied from the parameters
  // of `source` with the same names, which must all be there. On the device of `source`.
  void allocate_copy(const Parameters& source);
  // Makes values, gradients and tables anew on `device` and copies them there, one block after the
  // other. Handles stay valid; FlatBuffer and BlockStorage tensors that somebody kept do not. Call
  // after allocate(), before a graph is recorded and before there are an optimiser, a reducer or
  // shards, which keep such tensors. Nothing to do when they are there. at::kMeta has shapes and no
  // values: a model can be checked there for what it computes on.
  void move_to(at::Device device);
  at::Device device() const { return device_; }

  const std::vector<Parameter>& all() const { return parameters_; }
  std::vector<FlatBuffer>& buffers() { return buffers_; }
  const std::vector<FlatBuffer>& buffers() const { return buffers_; }
  // By block, ascending; what is shared out over ranks one by one.
  const std::vector<BlockStorage>& blocks() const { return blocks_; }
  at::ScalarType dtype() const { return dtype_; }
  // Every buffer whole: what a rank updates that shares with nobody.
  std::vector<OwnedSlice> whole_slices() const;
  int64_t count() const;  // numbers in all parameters announced so far; works before allocate()
  // The same of those whose names begin with `prefix`.
  int64_t count(const std::string& prefix) const;
  void zero_grad();

  // Published names and shapes of everything announced so far, sorted; works before allocate().
  std::vector<std::pair<std::string, std::vector<int64_t>>> published_shapes() const;
  // Views under their published names, sorted.
  std::vector<NamedTensor> published() const;
  // Copies `tensors`, from whatever device, into the parameters of those names (converting the
  // dtype). Returns the names
  // of parameters that no tensor was given for, and of tensors that no parameter has. Throws
  // Error(kData) on another shape, naming both.
  struct Unmatched {
    std::vector<std::string> missing, unused;
  };
  Unmatched load(const std::vector<NamedTensor>& tensors);
  // xxh3 over names and bytes of all values: equal on all ranks of a run, and on every device. Goes
  // through the host, one buffer at a time.
  uint64_t hash() const;

 private:
  void lay_out(bool trained);
  void move_tables();

  at::ScalarType dtype_;
  at::Device device_ = at::kCPU;
  std::vector<Parameter> parameters_;
  std::vector<at::Tensor> tables_;
  std::vector<FlatBuffer> buffers_;
  std::vector<BlockStorage> blocks_;
};

// Exponential moving average: teacher = momentum * teacher + (1 - momentum) * student, buffer by
// buffer. `student` may hold more buffers; those of `teacher` must be there under the same names
// with the same sizes, on the same device (Error(kInternal)). The host does not wait.
void update_average(Parameters& teacher, const Parameters& student, double momentum);

}  // namespace keiko::model
