#include "config/binder.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace keiko::config {
namespace {

std::string number_text(int64_t value) { return std::to_string(value); }
std::string number_text(double value) {
  // The shortest text that reads back as the same number.
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return std::string(buffer, end);
}

bool parse_number(const std::string& text, int64_t& value) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size();
}
bool parse_number(const std::string& text, double& value) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size() && std::isfinite(value);
}

const char* type_name(int64_t) { return "an integer"; }
const char* type_name(double) { return "a number"; }

// A string as YAML: quoted when a plain one would read back as something else.
std::string string_text(const std::string& value) {
  const bool plain = !value.empty() &&
                     value.find_first_of(":#{}[],&*!|>'\"%@`\n\t\\") == std::string::npos &&
                     value.front() != ' ' && value.back() != ' ' && value.front() != '-' &&
                     value.front() != '?' && value != "null" && value != "~";
  if (plain) return value;
  std::string quoted = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n')
      quoted += "\\n";
    else if (c == '\t')
      quoted += "\\t";
    else
      quoted += c;
  }
  return quoted + "\"";
}

std::string describe(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kScalar:
      return node.scalar.empty() ? "\"\"" : node.scalar;
    case Node::Kind::kList:
      return "a list";
    default:
      return "a map";
  }
}

}  // namespace

Binder Binder::reader(const Node& root) {
  Binder binder;
  binder.reading_ = true;
  binder.scope_.node = &root;
  binder.file_ = root.file;
  binder.scope_.owner = "a recipe";
  return binder;
}

Binder Binder::writer() { return Binder(); }

const Node* Binder::look_up(const std::string& name) {
  scope_.known.push_back(name);
  if (!reading_ || scope_.node == nullptr) return nullptr;
  return scope_.node->find(name);
}

void Binder::record(const std::string& name, std::string value, const std::string& comment) {
  entries_.push_back({scope_.prefix + name, std::move(value), comment, false});
}

Binder::Key Binder::key(const std::string& name, bool& value, const std::string& comment) {
  const Node* node = look_up(name);
  if (node != nullptr) {
    if (node->scalar != "true" && node->scalar != "false")
      fail(ErrorKind::kUsage, "{}: {}{} = {} is not true or false", node->place(), scope_.prefix,
           name, describe(*node));
    value = node->scalar == "true";
  }
  record(name, value ? "true" : "false", comment);
  return Key(this, node, scope_.prefix + name, {});
}

template <class Number>
Binder::Key Binder::bind_number(const std::string& name, Number& value,
                                const std::string& comment) {
  const Node* node = look_up(name);
  if (node != nullptr && (node->kind != Node::Kind::kScalar || !parse_number(node->scalar, value)))
    fail(ErrorKind::kUsage, "{}: {}{} = {} is not {}", node->place(), scope_.prefix, name,
         describe(*node), type_name(value));
  record(name, number_text(value), comment);
  return Key(this, node, scope_.prefix + name, {double(value)});
}

Binder::Key Binder::key(const std::string& name, int64_t& value, const std::string& comment) {
  return bind_number(name, value, comment);
}
Binder::Key Binder::key(const std::string& name, double& value, const std::string& comment) {
  return bind_number(name, value, comment);
}

Binder::Key Binder::key(const std::string& name, std::string& value, const std::string& comment) {
  const Node* node = look_up(name);
  if (node != nullptr) {
    if (node->kind != Node::Kind::kScalar)
      fail(ErrorKind::kUsage, "{}: {}{} is {}, not one word", node->place(), scope_.prefix, name,
           describe(*node));
    value = node->scalar;
  }
  record(name, string_text(value), comment);
  return Key(this, node, scope_.prefix + name, {});
}

template <class Number>
Binder::Key Binder::bind_numbers(const std::string& name, std::vector<Number>& value,
                                 const std::string& comment) {
  const Node* node = look_up(name);
  if (node != nullptr) {
    if (node->kind != Node::Kind::kList)
      fail(ErrorKind::kUsage, "{}: {}{} = {} is not a list of numbers such as [1, 2]",
           node->place(), scope_.prefix, name, describe(*node));
    value.clear();
    for (const Node& item : node->list) {
      Number number{};
      if (item.kind != Node::Kind::kScalar || !parse_number(item.scalar, number))
        fail(ErrorKind::kUsage, "{}: {}{}: {} is not {}", item.place(), scope_.prefix, name,
             describe(item), type_name(number));
      value.push_back(number);
    }
  }
  std::string text;
  for (Number number : value) text += (text.empty() ? "" : ", ") + number_text(number);
  record(name, "[" + text + "]", comment);
  return Key(this, node, scope_.prefix + name, std::vector<double>(value.begin(), value.end()));
}

Binder::Key Binder::key(const std::string& name, std::vector<double>& value,
                        const std::string& comment) {
  return bind_numbers(name, value, comment);
}
Binder::Key Binder::key(const std::string& name, std::vector<int64_t>& value,
                        const std::string& comment) {
  return bind_numbers(name, value, comment);
}

Binder::Key Binder::choice(const std::string& name, std::string& value,
                           const std::vector<std::string>& choices, const std::string& comment) {
  Key result = key(name, value, comment);
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    std::string all;
    for (const std::string& c : choices) all += (all.empty() ? "" : ", ") + c;
    const std::string near = nearest(value, choices);
    fail(ErrorKind::kUsage, "{}: {}{} = {} is not one of {}{}",
         result.node_ != nullptr ? result.node_->place() : place(), scope_.prefix, name, value, all,
         near.empty() ? "" : "; did you mean " + near + "?");
  }
  return result;
}

Binder::Key& Binder::Key::range(double low, double high) {
  for (double number : numbers_) {
    if (number >= low && number <= high) continue;
    const std::string bounds =
        std::isinf(high) ? fmt::format("at least {}", number_text(low))
                         : fmt::format("from {} to {}", number_text(low), number_text(high));
    fail(ErrorKind::kUsage, "{}: {} = {} is out of range; it must be {}",
         node_ != nullptr ? node_->place() : binder_->place(), path_, number_text(number), bounds);
  }
  return *this;
}

Binder::Key& Binder::Key::required() {
  if (binder_->reading_ && node_ == nullptr)
    fail(ErrorKind::kUsage, "{}: {} is missing ({}); add it", binder_->place(), path_,
         binder_->entries_.back().comment);
  return *this;
}

Binder::Key& Binder::Key::free() {
  binder_->entries_.back().is_free = true;
  return *this;
}

void Binder::free_all(const std::string& prefix) {
  for (Entry& entry : entries_)
    if (entry.path.rfind(scope_.prefix + prefix, 0) == 0) entry.is_free = true;
}

Binder::Scope Binder::enter(const std::string& name, const std::string& owner) {
  const Node* node = look_up(name);
  if (node != nullptr && node->kind != Node::Kind::kMap)
    fail(ErrorKind::kUsage, "{}: {}{} = {} must be a map of keys", node->place(), scope_.prefix,
         name, describe(*node));
  Scope outer = scope_;
  scope_ = Scope{node, outer.prefix + name + ".", owner, {}};
  return outer;
}

size_t Binder::list_size(const std::string& name, const std::string& scalar_key) {
  const Node* node = look_up(name);
  if (node == nullptr) return kAbsent;
  if (node->kind == Node::Kind::kList) return node->list.size();
  if (node->kind == Node::Kind::kMap)
    fail(ErrorKind::kUsage, "{}: {}{} must be a list of maps, or the {} alone", node->place(),
         scope_.prefix, name, scalar_key);
  return 1;
}

std::optional<Binder::Scope> Binder::enter_item(const std::string& name, size_t index,
                                                const std::string& scalar_key) {
  const Node* item = nullptr;
  if (const Node* node = reading_ && scope_.node ? scope_.node->find(name) : nullptr) {
    const Node& found = node->kind == Node::Kind::kList ? node->list[index] : *node;
    item = &found;
    if (found.kind == Node::Kind::kScalar) {
      auto made = std::make_unique<Node>();
      made->file = found.file;
      made->line = found.line;
      made->map.emplace_back(scalar_key, found);
      item = made.get();
      made_.push_back(std::move(made));
    }
    if (item->kind != Node::Kind::kMap)
      fail(ErrorKind::kUsage, "{}: {}{}[{}] must be a map of keys", item->place(), scope_.prefix,
           name, index);
  }
  Scope outer = scope_;
  scope_ = Scope{item, fmt::format("{}{}[{}].", outer.prefix, name, index), name, {}};
  return outer;
}

void Binder::leave(const Scope& outer) {
  refuse_unknown();
  scope_ = outer;
}

void Binder::finish() { refuse_unknown(); }

void Binder::refuse_unknown() const {
  if (!reading_ || scope_.node == nullptr) return;
  for (const auto& [name, value] : scope_.node->map) {
    if (std::find(scope_.known.begin(), scope_.known.end(), name) != scope_.known.end()) continue;
    const std::string near = nearest(name, scope_.known);
    std::string advice = "; did you mean " + near + "?";
    if (near.empty()) {
      advice = "; its keys are";
      for (size_t i = 0; i < scope_.known.size(); ++i)
        advice += (i == 0 ? " " : ", ") + scope_.known[i];
    }
    fail(ErrorKind::kUsage, "{}: {}{} is not a key of `{}`{}", value.place(), scope_.prefix, name,
         scope_.owner, advice);
  }
}

std::optional<std::string> Binder::peek(const std::string& name) const {
  if (!reading_ || scope_.node == nullptr) return std::nullopt;
  const Node* node = scope_.node->find(name);
  if (node == nullptr || node->kind != Node::Kind::kScalar) return std::nullopt;
  return node->scalar;
}

std::string Binder::place(const std::string& name) const {
  if (scope_.node == nullptr) return file_.empty() ? "recipe" : file_;
  if (const Node* node = name.empty() ? nullptr : scope_.node->find(name)) return node->place();
  return scope_.node->place();
}

void Binder::refuse(const std::string& name, const std::string& message) const {
  std::string value = "(default)";
  for (const Entry& entry : entries_)
    if (entry.path == scope_.prefix + name) value = entry.value;
  fail(ErrorKind::kUsage, "{}: {}{} = {} {}", place(name), scope_.prefix, name, value, message);
}

std::string to_yaml(const std::vector<Entry>& entries) {
  std::string out;
  std::vector<std::string> open;  // the groups that the last line was in
  for (const Entry& entry : entries) {
    std::vector<std::string> parts;
    for (size_t from = 0; from <= entry.path.size();) {
      const size_t dot = std::min(entry.path.find('.', from), entry.path.size());
      parts.push_back(entry.path.substr(from, dot - from));
      from = dot + 1;
    }
    std::string key = parts.back();
    parts.pop_back();
    size_t same = 0;
    while (same < open.size() && same < parts.size() && open[same] == parts[same]) ++same;
    bool first_of_item = false;
    for (size_t level = same; level < parts.size(); ++level) {
      const size_t bracket = parts[level].find('[');
      const std::string indent(level * 2, ' ');
      if (bracket == std::string::npos) {
        out += indent + parts[level] + ":\n";
      } else {
        // A list item: "data[0]" opens the list, later ones only a dash.
        if (parts[level].substr(bracket) == "[0]")
          out += indent + parts[level].substr(0, bracket) + ":\n";
        first_of_item = true;
      }
    }
    open = parts;
    const bool in_item = !parts.empty() && parts.back().back() == ']';
    std::string line(parts.size() * 2, ' ');
    if (in_item) line += first_of_item ? "- " : "  ";
    line += key + ": " + entry.value;
    if (line.size() < 44) line.resize(44, ' ');
    out += line + "  # " + entry.comment + "\n";
  }
  return out;
}

std::vector<std::string> defining_differences(const std::vector<Entry>& before,
                                              const std::vector<Entry>& after,
                                              const std::vector<std::string>& allowed) {
  auto value_in = [](const std::vector<Entry>& entries, const std::string& path) {
    for (const Entry& entry : entries)
      if (entry.path == path) return entry.value;
    return std::string("(absent)");
  };
  auto is_allowed = [&](const std::string& path) {
    return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& prefix) {
      return path == prefix || path.rfind(prefix + ".", 0) == 0 || path.rfind(prefix + "[", 0) == 0;
    });
  };
  std::vector<std::string> lines;
  auto compare = [&](const Entry& entry, bool from_before) {
    if (entry.is_free || is_allowed(entry.path)) return;
    const std::string old_value = value_in(before, entry.path);
    const std::string new_value = value_in(after, entry.path);
    if (from_before && new_value != "(absent)") return;  // already seen from `after`
    if (old_value != new_value)
      lines.push_back(fmt::format("  {}: {} -> {}", entry.path, old_value, new_value));
  };
  for (const Entry& entry : after) compare(entry, false);
  for (const Entry& entry : before) compare(entry, true);
  return lines;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  auto distance = [](const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= b.size(); ++j) {
        const size_t above = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
        diagonal = above;
      }
    }
    return row[b.size()];
  };
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t d = distance(word, candidate);
    if (d < best_distance) {
      best = candidate;
      best_distance = d;
    }
  }
  return best;
}

}  // namespace keiko::config
