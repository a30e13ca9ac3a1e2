// The text of lists of videos: lines that count, and the fields of a table's row.

#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::data {

// ".csv" of "/a/B.CSV": in lower case, "" when there is none.
std::string suffix_of(const std::string& path);
// Without spaces, tabs and carriage returns at both ends.
std::string trim(const std::string& text);
// ASCII letters only.
std::string lower_case(std::string text);

// One row of a table: fields may be quoted, quotes doubled inside (RFC 4180). Fields are trimmed.
std::vector<std::string> split_row(const std::string& line, char separator);

// Calls `visit` for every line of the file that is neither empty nor a comment (#), with its number
// from 1. A byte order mark is left out. Lines are trimmed; those of a table only of carriage
// returns, because tabs and spaces at its ends are fields. Throws Error(kIo).
void each_list_line(Env* env, const std::string& path, bool is_table,
                    const std::function<void(const std::string& line, int64_t number)>& visit);

}  // namespace keiko::data
