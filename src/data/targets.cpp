#include "data/targets.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/error.h"
#include "base/json_text.h"
#include "data/index.h"
#include "data/list_text.h"

namespace keiko::data {
namespace {

constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();
// Names of objects make a column each, and every line has all columns: a name a line would need
// memory that grows with the square of the list.
constexpr size_t kMostColumns = 4096;

[[noreturn]] void refuse_value(const std::string& place, const std::string& name,
                               const std::string& value) {
  fail(ErrorKind::kUsage,
       "{}: {} = {} is not a finite number that float32 holds; leave it empty where it is not "
       "known",
       place, name, value);
}

float to_float(double value, const std::string& place, const std::string& name,
               const std::string& text) {
  const float rounded = float(value);
  if (!std::isfinite(value) || !std::isfinite(rounded)) refuse_value(place, name, text);
  return rounded;
}

float read_cell(const std::string& cell, const std::string& place, const std::string& name) {
  const std::string word = lower_case(cell);
  if (word.empty() || word == "nan") return kUnknown;
  if (word == "true") return 1;  // as pandas writes what is yes or no
  if (word == "false") return 0;
  const bool has_plus = cell[0] == '+' && cell[1] != '-';  // from_chars knows no plus
  const char* const first = cell.data() + (has_plus ? 1 : 0);
  const char* const last = cell.data() + cell.size();
  double value = 0;
  const auto [end, error] = std::from_chars(first, last, value);
  if (error != std::errc() || end != last) refuse_value(place, name, cell);
  return to_float(value, place, name, cell);
}

float read_json_value(const nlohmann::json& value, const std::string& place,
                      const std::string& name) {
  if (value.is_null()) return kUnknown;
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  // A list or an object is not printed: a deep one would overflow the stack.
  if (value.is_structured()) refuse_value(place, name, value.is_array() ? "[...]" : "{...}");
  if (!value.is_number()) refuse_value(place, name, json_text(value));
  return to_float(value.get<double>(), place, name, json_text(value));
}

// Collects the lines of a list, a cell at a time.
class Reading {
 public:
  explicit Reading(const std::string& path) : path_(path) {}

  // A table's first row is its header.
  void add_row(const std::vector<std::string>& fields, const std::string& place, int64_t line) {
    if (column_of_field_.empty()) {
      read_header(fields, place);
      return;
    }
    if (fields.size() != column_of_field_.size())
      fail(ErrorKind::kUsage, "{}: {} fields, but the header has {}", place, fields.size(),
           column_of_field_.size());
    for (size_t i = 0; i < fields.size(); ++i)
      if (column_of_field_[i] >= 0)
        add_cell(column_of_field_[i],
                 read_cell(fields[i], place, names_[size_t(column_of_field_[i])]));
    finish_line(fields[path_field_], place, line);
  }

  void add_json(const std::string& text, const std::string& place, int64_t line) {
    const auto json = parse_json(text, place);
    if (!json.is_object() || !json.contains("path") || !json["path"].is_string())
      fail(ErrorKind::kUsage, "{}: not a JSON object with a path", place);
    const auto targets = json.find("targets");
    if (targets == json.end() || targets->is_null()) return;
    if (!targets->is_structured())
      fail(ErrorKind::kUsage, "{}: targets must be an object of names and numbers, or a list",
           place);
    const auto form = targets->is_array() ? Form::kLists : Form::kObjects;
    if (form_ == Form::kNone && form == Form::kLists)
      for (size_t i = 0; i < targets->size(); ++i) column(std::to_string(i));
    if (form_ != Form::kNone && form != form_)
      fail(ErrorKind::kUsage, "{}: targets are {} here, but not on the lines before", place,
           form == Form::kLists ? "a list" : "an object");
    form_ = form;
    if (form == Form::kLists) {
      if (targets->size() != names_.size())
        fail(ErrorKind::kUsage, "{}: {} targets, but {} on the lines before", place,
             targets->size(), names_.size());
      for (size_t i = 0; i < targets->size(); ++i)
        add_cell(int32_t(i), read_json_value((*targets)[i], place, names_[i]));
    } else {
      for (const auto& [name, value] : targets->items())
        add_cell(column(name), read_json_value(value, place, name));
    }
    finish_line(json["path"].get<std::string>(), place, line);
  }

  TargetList finish() {
    // Names of objects come in any order, which must not be that of the columns.
    if (form_ == Form::kObjects)
      list_.names = sort_class_names(names_);
    else
      list_.names = names_;
    std::vector<size_t> place_of(names_.size());
    for (size_t i = 0; i < names_.size(); ++i) place_of[size_t(column(list_.names[i]))] = i;
    list_.values.assign(list_.paths.size() * names_.size(), kUnknown);
    size_t next = 0;
    for (size_t row = 0; row < list_.paths.size(); ++row)
      for (; next < end_of_row_[row]; ++next)
        list_.values[row * names_.size() + place_of[size_t(cells_[next].first)]] =
            cells_[next].second;
    return std::move(list_);
  }

 private:
  enum class Form { kNone, kLists, kObjects };

  void read_header(const std::vector<std::string>& fields, const std::string& place) {
    bool has_path = false;
    for (size_t i = 0; i < fields.size(); ++i) {
      const std::string word = lower_case(fields[i]);
      column_of_field_.push_back(-1);
      if (word == "path") {
        if (has_path) fail(ErrorKind::kUsage, "{}: two columns are named path", place);
        has_path = true;
        path_field_ = i;
      } else if (fields[i].empty()) {
        fail(ErrorKind::kUsage, "{}: column {} has no name", place, i + 1);
      } else if (word != "label") {
        const size_t before = names_.size();
        column_of_field_.back() = column(fields[i]);
        if (names_.size() == before)
          fail(ErrorKind::kUsage, "{}: two columns are named {}", place, fields[i]);
      }
    }
    if (!has_path)
      fail(ErrorKind::kUsage,
           "{}: no column is named path; the first row names path and the targets", place);
    if (names_.empty())
      fail(ErrorKind::kUsage, "{}: no target beside the path; a column each", place);
  }

  // The number of a column, a new one for a new name.
  int32_t column(const std::string& name) {
    const auto [found, is_new] = column_of_name_.try_emplace(name, int32_t(names_.size()));
    if (is_new) names_.push_back(name);
    if (names_.size() > kMostColumns)
      fail(ErrorKind::kUsage, "data.targets: {} has more than {} targets", path_, kMostColumns);
    return found->second;
  }

  void add_cell(int32_t column, float value) {
    if (!std::isnan(value)) cells_.emplace_back(column, value);
  }

  void finish_line(const std::string& path, const std::string& place, int64_t line) {
    if (path.empty()) fail(ErrorKind::kUsage, "{}: the path is empty", place);
    if (cells_.size() == (end_of_row_.empty() ? 0 : end_of_row_.back())) return;
    if (list_.paths.size() == size_t(std::numeric_limits<int32_t>::max()))
      fail(ErrorKind::kUsage, "{}: more than {} lines", path_, list_.paths.size());
    list_.paths.push_back(path);
    list_.line.push_back(line);
    end_of_row_.push_back(cells_.size());
  }

  const std::string& path_;
  Form form_ = Form::kNone;               // of the JSON lines so far
  std::vector<int32_t> column_of_field_;  // of a table; -1: no target
  size_t path_field_ = 0;
  std::vector<std::string> names_;
  std::unordered_map<std::string, int32_t> column_of_name_;
  std::vector<std::pair<int32_t, float>> cells_;  // the known ones of all lines
  std::vector<size_t> end_of_row_;                // in `cells_`
  TargetList list_;
};

}  // namespace

TargetList read_target_list(Env* env, const std::string& path) {
  const std::string suffix = suffix_of(path);
  const bool is_table = suffix == ".csv" || suffix == ".tsv";
  if (!is_table && suffix != ".jsonl")
    fail(ErrorKind::kUsage, "data.targets: {} is neither .csv, .tsv nor .jsonl", path);
  Reading reading(path);
  each_list_line(env, path, is_table, [&](const std::string& line, int64_t number) {
    const std::string place = fmt::format("{}:{}", path, number);
    if (is_table)
      reading.add_row(split_row(line, suffix == ".tsv" ? '\t' : ','), place, number);
    else
      reading.add_json(line, place, number);
  });
  return reading.finish();
}

Targets read_targets(Env* env, const std::string& list, const Catalogue& catalogue) {
  if (!env->status(list).exists)
    fail(ErrorKind::kUsage, "data.targets: {} does not exist; give a table of paths and numbers",
         list);
  Targets targets;
  targets.list = read_target_list(env, list);
  const TargetList& rows = targets.list;
  if (rows.paths.empty())
    fail(ErrorKind::kUsage,
         "data.targets: {} holds no target; a line is a path and a number for each column", list);
  targets.of_video.assign(size_t(catalogue.video_count()), -1);
  targets.unmatched = match_paths(
      list, catalogue, rows.paths.size(),
      [&](size_t row) -> const std::string& { return rows.paths[row]; },
      [&](size_t row, uint32_t video) {
        int32_t& old = targets.of_video[video];
        if (old < 0) old = int32_t(row);
        for (size_t i = 0; i < rows.names.size(); ++i) {
          const float before = rows.row(size_t(old))[i], now = rows.row(row)[i];
          if (before == now || (std::isnan(before) && std::isnan(now))) continue;
          fail(ErrorKind::kUsage,
               "data.targets: {}:{} gives {} another {} than line {} did: {}, not {}", list,
               rows.line[row], catalogue.summary(video).file.path, rows.names[i],
               rows.line[size_t(old)], now, before);
        }
      });
  if (targets.unmatched.count == int64_t(rows.paths.size()))
    fail(ErrorKind::kUsage, "data.targets: none of the {} paths in {} is a video of {}, such as {}",
         rows.paths.size(), list, catalogue.path(), targets.unmatched.first[0]);
  return targets;
}

}  // namespace keiko::data
