// Binds options structs to recipes, strictly and in both directions.
//
// An options struct lists its keys once, in `void bind(config::Binder&)`. The same list reads a
// recipe (refusing unknown, mistyped and out-of-range keys by line, with the nearest valid key),
// writes the resolved recipe with its comments, and tells which keys define the computation.

#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "config/tree.h"

namespace keiko::config {

// One key after binding, as it is written to recipe.yaml and compared on resume.
struct Entry {
  std::string path;      // "objective.mask_ratio"
  std::string value;     // YAML flow text: "0.9", "[1, 0.5]", "k400.kix"
  std::string comment;   // what the key means, one line
  bool is_free = false;  // true: may change on resume without changing the computation
};

class Binder {
 public:
  // Reads from `root` (a map). `root` must outlive the binder.
  static Binder reader(const Node& root);
  // Collects the current values.
  static Binder writer();

  // What a key call returns: checks and marks chained behind it.
  class Key {
   public:
    // Refuses values outside [low, high].
    Key& range(double low, double high);
    Key& at_least(double low) { return range(low, std::numeric_limits<double>::infinity()); }
    // The recipe must give it.
    Key& required();
    // A change of it on resume is allowed: it does not define what is computed.
    Key& free();

   private:
    friend class Binder;
    Key(Binder* binder, const Node* node, std::string path, std::vector<double> numbers)
        : binder_(binder), node_(node), path_(std::move(path)), numbers_(std::move(numbers)) {}
    Binder* binder_;
    const Node* node_;  // null when the recipe does not give it, or when writing
    std::string path_;
    std::vector<double> numbers_;
  };

  // Each binds one key: reading replaces `value` when the recipe gives the key; writing records it.
  // Throws Error(kUsage) with place, path and value when the recipe's value has another type.
  Key key(const std::string& name, bool& value, const std::string& comment);
  Key key(const std::string& name, int64_t& value, const std::string& comment);
  Key key(const std::string& name, double& value, const std::string& comment);
  Key key(const std::string& name, std::string& value, const std::string& comment);
  Key key(const std::string& name, std::vector<double>& value, const std::string& comment);
  Key key(const std::string& name, std::vector<int64_t>& value, const std::string& comment);
  // A word out of `choices`; another one is refused with the nearest.
  Key choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
             const std::string& comment);

  // A nested map bound by `options.bind`.
  template <class Options>
  void group(const std::string& name, Options& options) {
    const auto outer = enter(name, name);
    options.bind(*this);
    leave(outer);
  }

  // A list of maps, each bound by Options::bind; one scalar stands for a list of one whose key
  // `scalar_key` has that value.
  template <class Options>
  void list(const std::string& name, std::vector<Options>& options, const std::string& scalar_key) {
    const size_t count = list_size(name, scalar_key);
    if (is_reading() && count != kAbsent) options.assign(count, Options());
    for (size_t i = 0; i < options.size(); ++i) {
      const auto outer = enter_item(name, i, scalar_key);
      if (!outer) continue;
      options[i].bind(*this);
      leave(*outer);
    }
  }

  // Marks all keys bound so far whose path starts with `prefix` ("eval.") as free.
  void free_all(const std::string& prefix);

  // Names what the keys of the current map belong to in error messages ("`videomae`").
  void call_it(const std::string& owner) { scope_.owner = owner; }

  // The text of a scalar key without binding it, for groups whose keys depend on it.
  std::optional<std::string> peek(const std::string& name) const;
  // Where the current map, or its key `name`, was written.
  std::string place(const std::string& name = "") const;
  // Throws Error(kUsage) "PLACE: PATH = VALUE MESSAGE" for a key of the current map.
  [[noreturn]] void refuse(const std::string& name, const std::string& message) const;

  // Refuses the keys of the current (outermost) map that nobody bound. Groups do so by themselves.
  void finish();

  bool is_reading() const { return reading_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  static constexpr size_t kAbsent = size_t(-1);
  struct Scope {
    const Node* node = nullptr;  // null: the recipe does not give this map
    std::string prefix;          // "objective."
    std::string owner;
    std::vector<std::string> known;
  };

  const Node* look_up(const std::string& name);
  void record(const std::string& name, std::string value, const std::string& comment);
  template <class Number>
  Key bind_number(const std::string& name, Number& value, const std::string& comment);
  template <class Number>
  Key bind_numbers(const std::string& name, std::vector<Number>& value, const std::string& comment);
  Scope enter(const std::string& name, const std::string& owner);
  std::optional<Scope> enter_item(const std::string& name, size_t index,
                                  const std::string& scalar_key);
  size_t list_size(const std::string& name, const std::string& scalar_key);
  void leave(const Scope& outer);
  void refuse_unknown() const;

  bool reading_ = false;
  std::string file_;  // of the root map
  Scope scope_;
  std::vector<Entry> entries_;
  std::vector<std::unique_ptr<Node>> made_;  // maps made from scalars
};

// Binds a whole struct: reads `root` into `options` and refuses what is left over.
template <class Options>
void read_options(const Node& root, Options& options) {
  Binder binder = Binder::reader(root);
  options.bind(binder);
  binder.finish();
}

// The keys of a struct with their present values, in the order of its bind().
template <class Options>
std::vector<Entry> list_entries(Options options) {
  Binder binder = Binder::writer();
  options.bind(binder);
  return binder.entries();
}

// Entries as a commented YAML document that read_recipe accepts.
std::string to_yaml(const std::vector<Entry>& entries);

// One line per key that differs and is not free: "  objective.mask_ratio: 0.9 -> 0.75". Keys under
// `allowed` are left out.
std::vector<std::string> defining_differences(const std::vector<Entry>& before,
                                              const std::vector<Entry>& after,
                                              const std::vector<std::string>& allowed);

// The candidate with the smallest edit distance, or "" when none is near (more than 1 edit for
// every 3 letters).
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace keiko::config
