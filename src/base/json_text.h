// JSON as text, for any bytes that a file system may put into a name.

#pragma once
#include <nlohmann/json.hpp>

#include <string>

namespace keiko {

// `indent` < 0: one line. Bytes that are not UTF-8 (file names may hold them) become U+FFFD instead
// of an exception in the middle of a run.
template <class Json>
std::string json_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace keiko
