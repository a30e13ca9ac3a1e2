// Arbitrary text as a recipe: YAML, overrides, and binding to options of every kind.
//
// What was read must also come back: the resolved recipe that a run writes is YAML that binds to
// the same values.

#include "config/binder.h"
#include "data/clip_plan.h"
#include "data/loader.h"
#include "fuzz/target.h"

namespace keiko::fuzz {
namespace {

struct Everything {
  bool flag = false;
  int64_t count = 3;
  double rate = 0.5;
  std::string word = "plain";
  std::vector<double> numbers = {1, 0.5};
  std::vector<int64_t> counts;
  std::string kind = "one";
  data::ClipOptions clip;
  data::AugmentOptions augment;
  data::LoaderOptions loader;
  std::vector<data::DataSource> data;

  void bind(config::Binder& b) {
    b.key("flag", flag, "a switch");
    b.key("count", count, "an integer").range(0, 100);
    b.key("rate", rate, "a number").at_least(0);
    b.key("word", word, "text").free();
    b.key("numbers", numbers, "several numbers");
    b.key("counts", counts, "several integers").range(-5, 1e12);
    b.choice("kind", kind, {"one", "two"}, "a word out of two");
    b.group("clip", clip);
    b.group("augment", augment);
    b.group("loader", loader);
    b.list("data", data, "path");
    b.free_all("loader.");
  }
};

bool same(const std::vector<config::Entry>& a, const std::vector<config::Entry>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.path == y.path && x.value == y.value;
  });
}

void bind_and_write_back(const config::Node& node) {
  if (node.kind != config::Node::Kind::kMap) return;  // read_recipe refuses it
  Everything options;
  config::read_options(node, options);
  const auto entries = config::list_entries(options);
  const std::string yaml = config::to_yaml(entries);
  Everything again;
  try {
    config::read_options(config::parse_yaml(yaml, "resolved.yaml"), again);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n%s\n", yaml.c_str(), e.what());
    require(false, "a resolved recipe can be read");
  }
  const auto back = config::list_entries(again);
  if (!same(entries, back)) std::fprintf(stderr, "%s", yaml.c_str());
  require(same(entries, back), "a resolved recipe says what was read");
  require(config::defining_differences(entries, back, {}).empty(), "it is the same computation");
}

}  // namespace
}  // namespace keiko::fuzz

// Input: lines of overrides up to an empty line, then the recipe.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  const std::string text = fuzz::text_of({data, size});
  const size_t gap = text.find("\n\n");
  const std::string head = gap == std::string::npos ? "" : text.substr(0, gap);
  const std::string body = gap == std::string::npos ? text : text.substr(gap + 2);
  fuzz::survives([&] { fuzz::bind_and_write_back(config::parse_yaml(body, "hostile.yaml")); });
  fuzz::survives([&] {
    config::Node node = config::parse_yaml(body, "hostile.yaml");
    if (node.kind != config::Node::Kind::kMap) return;
    for (size_t from = 0; from < head.size();) {
      const size_t end = std::min(head.find('\n', from), head.size());
      config::apply_override(node, head.substr(from, end - from));
      from = end + 1;
    }
    fuzz::bind_and_write_back(node);
  });
  return 0;
}
