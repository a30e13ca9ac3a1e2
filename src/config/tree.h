// A parsed recipe: YAML turned into a small tree that remembers where every value was written.
//
// `extends` and command-line overrides are merged here, before any options struct sees the values,
// so an error can always name the file and line that the user has to change.

#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace keiko::config {

struct Node {
  enum class Kind { kScalar, kList, kMap };

  // Defined in tree.cpp, where std::pair<std::string, Node> is complete: clang insists on it.
  Node();
  Node(const Node&);
  Node(Node&&) noexcept;
  Node& operator=(const Node&);
  Node& operator=(Node&&) noexcept;
  ~Node();

  Kind kind = Kind::kMap;
  std::string scalar;                             // kScalar: the text, quotes removed
  std::vector<Node> list;                         // kList
  std::vector<std::pair<std::string, Node>> map;  // kMap, in the order written, keys unique
  std::string file;                               // where it was written; "command line"
  int line = 0;                                   // from 1; 0 for the command line

  // The value under `key`, or null. Only for maps.
  const Node* find(const std::string& key) const;
  Node* find(const std::string& key);
  // "configs/my.yaml:14" or "command line".
  std::string place() const;
};

// Parses YAML text. Throws Error(kUsage) with the line on bad syntax, duplicate keys, an empty
// value, or more than 20,000 nodes, 64 levels or 4 MiB (aliases that multiply).
Node parse_yaml(const std::string& text, const std::string& file);

// Reads a recipe file; its `extends` (a path relative to the file) is read first and overlaid: maps
// merge key by key, anything else replaces. Throws Error(kUsage) on a cycle, Error(kIo) on reading.
Node read_recipe(const std::string& path);

// Overlays "a.b.c=value" (value is YAML, so lists and maps in flow style work). Throws
// Error(kUsage).
void apply_override(Node& root, const std::string& assignment);

// `over` wins; maps merge.
void merge(Node& base, const Node& over);

}  // namespace keiko::config
