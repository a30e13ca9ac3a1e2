#include "cli/cost_files.h"

#include <algorithm>
#include <charconv>

#include "base/env.h"
#include "base/error.h"
#include "config/tree.h"

namespace keiko::cli {
namespace {

using config::Node;

std::vector<std::string> cost_keys() {
  std::vector<std::string> keys;
  for (const auto& entry : config::list_entries(dist::ClusterCosts())) keys.push_back(entry.path);
  return keys;
}

void check_key(const std::string& key, const Node& value, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), key) != known.end()) return;
  const std::string near = config::nearest(key, known);
  fail(ErrorKind::kUsage, "{}: {} is not a cost; {}", value.place(), key,
       near.empty() ? "`keiko simulate --help` lists them" : "did you mean " + near + "?");
}

void put(Node& root, const std::string& key, const Node& value) {
  if (Node* old = root.find(key))
    *old = value;
  else
    root.map.emplace_back(key, value);
}

void put_number(Node& root, const std::string& key, double value, const Node& origin) {
  Node node;
  node.kind = Node::Kind::kScalar;
  node.scalar = fmt::format("{}", value);
  node.file = origin.file;
  node.line = origin.line;
  put(root, key, node);
}

// A number, or the median of a map of several.
std::optional<double> number(const Node* node) {
  if (node != nullptr && node->kind == Node::Kind::kMap) node = node->find("median");
  if (node == nullptr || node->kind != Node::Kind::kScalar) return std::nullopt;
  double value = 0;
  const char* end = node->scalar.data() + node->scalar.size();
  const auto [last, code] = std::from_chars(node->scalar.data(), end, value);
  if (code != std::errc() || last != end) return std::nullopt;
  return value;
}

double needed(const Node& map, const std::string& key, const char* bench) {
  const auto value = number(map.find(key));
  if (!value)
    fail(ErrorKind::kUsage,
         "{}: this looks like figures of `keiko bench {}`, but {} is no number there; write it "
         "anew with --json",
         map.place(), bench, key);
  return *value;
}

// What one file adds to the costs of the files before it.
struct Reader {
  CostFiles& files;
  Node root;
  std::vector<std::string> known = cost_keys();

  void set(const std::string& key, double value, const Node& origin, const std::string& source) {
    put_number(root, key, value, origin);
    files.sources[key] = source;
  }

  void read_step_bench(const Node& node) {
    const std::string source = "keiko bench step: " + node.file;
    const Node& parts = *node.find("parts_s");
    set("forward_s", needed(parts, "forward", "step"), parts, source);
    set("backward_s", needed(parts, "backward", "step"), parts, source);
    double rest = 0;
    for (const char* part : {"zero_grad", "norm", "optimizer"}) rest += needed(parts, part, "step");
    set("optimizer_s", rest, parts, source);
    set("clips_per_rank", needed(node, "batch", "step"), node, source);
    // fp32 gradients and weights, and the two moments of AdamW.
    const double bytes = 4 * needed(node, "parameters", "step");
    set("gradient_bytes", bytes, node, source);
    set("checkpoint_bytes", bytes, node, source);
    set("checkpoint_sharded_bytes", 2 * bytes, node, source);
  }

  void read_reduce_bench(const Node& node) {
    const std::string source = "keiko bench reduce: " + node.file;
    const Node* buckets = node.find("buckets");
    if (buckets != nullptr && buckets->kind == Node::Kind::kList) {
      put(root, "bucket_bytes", *buckets);
      files.sources["bucket_bytes"] = source;
    } else {
      set("gradient_bytes", needed(node, "bytes", "reduce"), node, source);
    }
    files.measured.push_back({node.file, int64_t(needed(node, "world_size", "reduce")),
                              number(node.find("alone_s")), number(node.find("with_s")),
                              number(node.find("without_s")), number(node.find("hidden"))});
  }

  void read_costs(Node node) {
    if (const Node* about = node.find("about")) files.about = about->scalar;
    const Node* found = node.find("sources");
    const Node sources = found != nullptr ? *found : Node();
    std::erase_if(node.map,
                  [](const auto& e) { return e.first == "about" || e.first == "sources"; });
    for (const auto& [key, value] : node.map) {
      check_key(key, value, known);
      put(root, key, value);
      files.sources[key] = node.file;
    }
    for (const auto& [key, source] : sources.map) {
      check_key(key, source, known);
      files.sources[key] = source.scalar;
    }
  }

  void read(const std::string& path) {
    const Node node = config::parse_yaml(read_text(default_env(), path), path);
    if (node.kind != Node::Kind::kMap)
      fail(ErrorKind::kUsage, "{}: a file of costs is a map of keys", path);
    if (const Node* parts = node.find("parts_s"); parts && parts->kind == Node::Kind::kMap)
      return read_step_bench(node);
    if (node.find("alone_s") != nullptr) return read_reduce_bench(node);
    read_costs(node);
  }
};

}  // namespace

CostFiles read_cost_files(const std::vector<std::string>& paths,
                          const std::vector<std::string>& settings) {
  CostFiles files;
  Reader reader{files, {}};
  for (const std::string& path : paths) reader.read(path);
  if (!paths.empty()) reader.root.file = paths.back();
  for (const std::string& setting : settings) {
    config::apply_override(reader.root, setting);
    const std::string key = setting.substr(0, setting.find('='));
    if (const Node* value = reader.root.find(key.substr(0, key.find('.'))))
      check_key(key, *value, reader.known);
    files.sources[key] = "command line";
  }
  config::read_options(reader.root, files.costs);
  return files;
}

}  // namespace keiko::cli
