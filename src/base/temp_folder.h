// A folder that is gone when the object is: for tests and for scratch work.

#pragma once
#include <string>

namespace keiko {

class TempFolder {
 public:
  // Creates a fresh folder under $TMPDIR or /tmp. Throws Error(kIo).
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace keiko
