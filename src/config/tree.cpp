#include "config/tree.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>

#include "base/env.h"
#include "base/error.h"

namespace keiko::config {
namespace {

// No recipe comes near these. A few lines of aliases that multiply would go past any memory, and
// keys are looked up one after another.
constexpr int kMostNodes = 20'000;
constexpr int kDeepest = 64;
constexpr size_t kMostBytes = size_t{4} << 20;

// What the rest of a document may still hold.
struct Budget {
  int nodes = kMostNodes;
  size_t bytes = kMostBytes;
};

Node convert(const YAML::Node& in, const std::string& file, int depth, Budget& budget) {
  Node out;
  out.file = file;
  out.line = in.Mark().line + 1;
  if (--budget.nodes < 0 || depth > kDeepest)
    fail(ErrorKind::kUsage, "{}: more than {} values or {} levels; is an alias repeated?",
         out.place(), kMostNodes, kDeepest);
  if (in.IsScalar()) {
    if (in.Scalar().size() > budget.bytes)
      fail(ErrorKind::kUsage, "{}: more than {} bytes of values; is an alias repeated?",
           out.place(), kMostBytes);
    budget.bytes -= in.Scalar().size();
  }
  switch (in.Type()) {
    case YAML::NodeType::Scalar:
      out.kind = Node::Kind::kScalar;
      out.scalar = in.Scalar();
      break;
    case YAML::NodeType::Sequence:
      out.kind = Node::Kind::kList;
      for (const auto& item : in) out.list.push_back(convert(item, file, depth + 1, budget));
      break;
    case YAML::NodeType::Map:
      for (const auto& item : in) {
        if (!item.first.IsScalar())
          fail(ErrorKind::kUsage, "{}: a key must be a plain word", out.place());
        const std::string& key = item.first.Scalar();
        if (item.second.IsNull())
          fail(ErrorKind::kUsage, "{}:{}: {} has no value; give one or remove the key", file,
               item.first.Mark().line + 1, key);
        Node value = convert(item.second, file, depth + 1, budget);
        value.line = item.first.Mark().line + 1;
        if (out.find(key) != nullptr)
          fail(ErrorKind::kUsage, "{}: {} is given twice; keep one", value.place(), key);
        out.map.emplace_back(key, std::move(value));
      }
      break;
    default:
      fail(ErrorKind::kUsage, "{}: a value is missing", out.place());
  }
  return out;
}

Node read_chain(const std::string& path, std::vector<std::string>& chain) {
  const std::string canonical = std::filesystem::weakly_canonical(path).string();
  if (std::find(chain.begin(), chain.end(), canonical) != chain.end())
    fail(ErrorKind::kUsage, "{}: extends itself, through {}", path, chain.back());
  chain.push_back(canonical);
  Node node = parse_yaml(read_text(default_env(), path), path);
  const Node* base = node.find("extends");
  if (base == nullptr) return node;
  if (base->kind != Node::Kind::kScalar)
    fail(ErrorKind::kUsage, "{}: extends must be one path", base->place());
  const std::string base_path = (std::filesystem::path(path).parent_path() / base->scalar).string();
  if (!default_env()->status(base_path).exists)
    fail(ErrorKind::kUsage, "{}: extends {}, which does not exist (looked at {})", base->place(),
         base->scalar, base_path);
  std::erase_if(node.map, [](const auto& entry) { return entry.first == "extends"; });
  Node merged = read_chain(base_path, chain);
  merge(merged, node);
  merged.file = node.file;
  merged.line = node.line;
  return merged;
}

}  // namespace

Node::Node() = default;
Node::Node(const Node&) = default;
Node::Node(Node&&) noexcept = default;
Node& Node::operator=(const Node&) = default;
Node& Node::operator=(Node&&) noexcept = default;
Node::~Node() = default;

const Node* Node::find(const std::string& key) const {
  for (const auto& [name, value] : map)
    if (name == key) return &value;
  return nullptr;
}

Node* Node::find(const std::string& key) {
  return const_cast<Node*>(static_cast<const Node*>(this)->find(key));
}

std::string Node::place() const { return line > 0 ? file + ":" + std::to_string(line) : file; }

Node parse_yaml(const std::string& text, const std::string& file) {
  try {
    if (text.size() > kMostBytes)
      fail(ErrorKind::kUsage, "{}: {} bytes; a recipe has at most {}", file, text.size(),
           kMostBytes);
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) {
      Node empty;
      empty.file = file;
      empty.line = 1;
      return empty;
    }
    Budget budget;
    Node node = convert(root, file, 0, budget);
    return node;
  } catch (const YAML::Exception& e) {
    fail(ErrorKind::kUsage, "{}:{}: {}", file, e.mark.line + 1, e.msg);
  }
}

Node read_recipe(const std::string& path) {
  std::vector<std::string> chain;
  Node node = read_chain(path, chain);
  if (node.kind != Node::Kind::kMap)
    fail(ErrorKind::kUsage, "{}: a recipe is a map of `key: value` lines", path);
  return node;
}

void apply_override(Node& root, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(ErrorKind::kUsage, "`{}` is not key=value, such as batch_size=64", assignment);
  Node value = parse_yaml(assignment.substr(equals + 1), "command line");
  if (value.kind == Node::Kind::kMap && value.map.empty())
    fail(ErrorKind::kUsage, "`{}` gives no value", assignment);
  // Lines within an override mean nothing to the user.
  auto forget_lines = [](auto& self, Node& node) -> void {
    node.line = 0;
    for (Node& item : node.list) self(self, item);
    for (auto& [name, item] : node.map) self(self, item);
  };
  forget_lines(forget_lines, value);

  std::string path = assignment.substr(0, equals);
  Node wrapped = std::move(value);
  while (true) {
    const size_t dot = path.find_last_of('.');
    const std::string key = dot == std::string::npos ? path : path.substr(dot + 1);
    Node outer;
    outer.file = "command line";
    outer.map.emplace_back(key, std::move(wrapped));
    wrapped = std::move(outer);
    if (dot == std::string::npos) break;
    path.resize(dot);
  }
  merge(root, wrapped);
}

void merge(Node& base, const Node& over) {
  if (base.kind != Node::Kind::kMap || over.kind != Node::Kind::kMap) {
    base = over;
    return;
  }
  for (const auto& [key, value] : over.map) {
    if (Node* existing = base.find(key))
      merge(*existing, value);
    else
      base.map.emplace_back(key, value);
  }
}

}  // namespace keiko::config
