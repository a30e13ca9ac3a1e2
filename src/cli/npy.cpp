#include "cli/npy.h"

#include <fmt/ranges.h>

namespace keiko::cli {

// Format version 1.0.
std::unique_ptr<WritableFile> create_npy(Env* env, const std::string& path,
                                         const std::string& descr,
                                         const std::vector<int64_t>& shape) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({},), }}",
                                   descr, fmt::join(shape, ", "));
  header.resize((header.size() + 11 + 63) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  const uint16_t length = uint16_t(header.size());
  auto file = env->create(path);
  file->append(std::string("\x93NUMPY\x01\x00", 8) +
               std::string(reinterpret_cast<const char*>(&length), 2) + header);
  return file;
}

}  // namespace keiko::cli
