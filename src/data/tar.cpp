#include "data/tar.h"

#include <fmt/format.h>

#include "base/error.h"

namespace keiko::data {

std::string tar_header(const std::string& name, int64_t size) {
  if (name.size() > 100 || size > 077777777777)
    fail(ErrorKind::kData, "{} of {} bytes cannot be a member of a tar file", name, size);
  std::string h(size_t(kTarBlock), '\0');
  const auto put = [&](size_t at, const std::string& text) { h.replace(at, text.size(), text); };
  // Field offsets and widths: POSIX.1-1988, "ustar".
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, fmt::format("{:011o}", size));
  put(136, "00000000000");
  put(148, "        ");  // the checksum counts as spaces while it is summed
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  unsigned sum = 0;
  for (const char c : h) sum += uint8_t(c);
  put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  return h;
}

}  // namespace keiko::data
