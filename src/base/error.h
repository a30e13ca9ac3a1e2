// One exception type for everything that can go wrong; its kind decides the exit code.
//
// A message says what was wrong, where, the value seen and what to do. It never starts with a
// capital letter and never ends with a newline, because the command line prefixes it.

#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace keiko {

enum class ErrorKind {
  kUsage,       // wrong command line or recipe: exit code 2
  kData,        // a file's content is not what it should be: exit code 1
  kIo,          // the operating system refused: exit code 1
  kTooMuchBad,  // more bad samples than the recipe allows: exit code 3
  kPreempted,   // asked to stop, and saved: exit code 75
  kInternal,    // a bug in Keiko: exit code 1
};

class Error : public std::runtime_error {
 public:
  // `cause`: the errno behind an error of the operating system, 0 when there is none.
  Error(ErrorKind kind, const std::string& message, int cause = 0)
      : std::runtime_error(message), kind_(kind), cause_(cause) {}
  ErrorKind kind() const { return kind_; }
  int cause() const { return cause_; }

 private:
  ErrorKind kind_;
  int cause_;
};

// Throws Error(kind) with a message in fmt's format.
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// The process exit code that the design gives to an error of this kind.
inline int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kTooMuchBad:
      return 3;
    case ErrorKind::kPreempted:
      return 75;
    default:
      return 1;
  }
}

}  // namespace keiko
