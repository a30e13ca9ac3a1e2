#include "base/temp_folder.h"

#include <cstdlib>
#include <filesystem>

#include "base/error.h"

namespace keiko {

TempFolder::TempFolder() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/keiko-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr)
    fail(ErrorKind::kIo, "{}: cannot create a temporary folder; set TMPDIR", path_);
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace keiko
