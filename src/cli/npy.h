// NumPy's .npy files: one array, as bytes.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::cli {

// Starts the file `path` of an array in C order; the caller appends its bytes. `descr`: "|u1",
// "<f4" or "<f8". Throws Error(kIo).
std::unique_ptr<WritableFile> create_npy(Env* env, const std::string& path,
                                         const std::string& descr,
                                         const std::vector<int64_t>& shape);

}  // namespace keiko::cli
