// safetensors files: u64 header length, JSON header, raw bytes. No pickle anywhere.

#pragma once
#include <map>
#include <string>
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

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;  // own their memory
  std::map<std::string, std::string> metadata;

  // Throws Error(kData) naming the file when there is no such tensor.
  at::Tensor get(const std::string& name) const;
  std::string path;
};

// Reads a whole file; every offset and size is checked. Throws Error(kData) naming what is wrong.
SafetensorsFile read_safetensors(Env* env, const std::string& path);

}  // namespace keiko::model
