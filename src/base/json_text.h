// JSON as text, for any bytes that a file system may put into a name, and back from files that
// others wrote.

#pragma once
#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace keiko {

// `indent` < 0: one line. Bytes that are not UTF-8 (file names may hold them) become U+FFFD instead
// of an exception in the middle of a run.
template <class Json>
std::string json_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

// `text` as JSON. Throws Error(kData) naming `where` when it is none, or when an object has a key
// twice: of two values one would be believed and the other lost.
template <class Json = nlohmann::json>
Json parse_json(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, typename Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(value.template get<std::string>()).second)
      fail(ErrorKind::kData, "{}: the key {} is there twice", where, json_text(value));
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kData, "{}: not good JSON ({})", where, e.what());
  }
}

}  // namespace keiko
