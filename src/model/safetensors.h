// safetensors files: u64 header length, JSON header, raw bytes. No pickle anywhere.

#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/env.h"
#include "model/parameters.h"

namespace keiko::model {

// Writes tensors (any of F64 F32 F16 BF16 I64 I32 U8 BOOL; made contiguous) and string metadata,
// and syncs the file. Does not rename: the caller decides when it counts. Returns the bytes' xxh3.
// Throws Error(kIo).
uint64_t write_safetensors(Env* env, const std::string& path,
                           const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& metadata = {});

// What a file says of one tensor before its bytes are read.
struct TensorEntry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  int64_t offset = 0, size = 0;  // bytes; offset from the start of the file
};

// The same file from tensors that are made one by one, so that no more than one is in memory:
// `make(i)` gives the tensor of `entries[i]`, on any device (name, dtype and shape count, the rest
// is ignored). Throws Error(kInternal) when it gives another shape or dtype.
uint64_t write_safetensors(Env* env, const std::string& path,
                           const std::vector<TensorEntry>& entries,
                           const std::function<at::Tensor(size_t)>& make,
                           const std::map<std::string, std::string>& metadata = {});

// Numbers that are read at once where they cannot go straight to where they belong.
constexpr int64_t kPieceNumbers = 1 << 20;

// Fills `into` with the numbers of a tensor of `file`, as they lie there, from number `first` on.
// `into` is contiguous, on any device and of any dtype: on the CPU and of the file's dtype it is
// read in place, else in pieces of kPieceNumbers. Throws Error(kInternal) where there are not as
// many numbers, Error(kIo).
void read_numbers(const ReadableFile& file, const TensorEntry& entry, int64_t first,
                  at::Tensor into);

// A file whose header has been read; tensors are read one by one when asked for. Safe to use from
// many threads at once.
class SafetensorsReader {
 public:
  // Reads the header and checks every offset and size in it, and that no tensor is there twice.
  // Throws Error(kData) naming what is wrong, Error(kIo).
  SafetensorsReader(Env* env, const std::string& path);
  const std::string& path() const { return file_->path(); }
  const std::vector<TensorEntry>& entries() const { return entries_; }  // sorted by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // `entry` is one of entries(). The tensor owns its memory.
  at::Tensor read(const TensorEntry& entry) const;
  // A stretch of it alone; see read_numbers().
  void read(const TensorEntry& entry, int64_t first, at::Tensor into) const {
    read_numbers(*file_, entry, first, std::move(into));
  }

 private:
  std::unique_ptr<ReadableFile> file_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;  // own their memory
  std::map<std::string, std::string> metadata;

  // Throws Error(kData) naming the file when there is no such tensor.
  at::Tensor get(const std::string& name) const;
  std::string path;
};

// "F32" and so on, as safetensors files call it. Throws Error(kInternal) for one they do not have.
const char* dtype_name(at::ScalarType dtype);

// Reads a whole file; every offset and size is checked. Throws Error(kData) naming what is wrong.
SafetensorsFile read_safetensors(Env* env, const std::string& path);

}  // namespace keiko::model
