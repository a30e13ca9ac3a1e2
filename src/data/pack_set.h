// What the tests of packs share: a source that they write and index themselves, and what a pack
// holds.

#pragma once
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/temp_folder.h"
#include "data/catalogue.h"
#include "data/index.h"
#include "data/pack.h"
#include "data/small_set.h"
#include "data/synth.h"

namespace keiko::data {

// Twelve clips of 24 frames, 32x32, indexed.
class Pack : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    SynthOptions o;
    o.out = folder_->path();
    o.train = 12;
    o.test = 8;
    o.frames = 24;
    write_synth(env, o, {});
    IndexOptions index;
    index.sources = {o.out + "/train"};
    index.out = source();
    build_catalogue(env, index, {});
  }
  static void TearDownTestSuite() { delete folder_; }
  static std::string source() { return folder_->path() + "/train.kix"; }
  // Small shards, so that there are several.
  static PackOptions options(const std::string& out, const std::string& purpose = "speed") {
    PackOptions o;
    o.catalogue = source();
    o.out = out;
    o.choice = default_choice(purpose);
    o.choice.shard_bytes = 8000;
    return o;
  }
  static inline TempFolder* folder_ = nullptr;
};

// Every file of a pack but plan.json (which names the source) and what a catalogue says of its
// making: for catalogues the hash over items and videos counts.
inline std::map<std::string, std::string> content(const std::string& out) {
  std::map<std::string, std::string> files;
  for (const std::string& name : env->list(out)) {
    if (name == "plan.json") continue;
    files[name] = name.ends_with(".kix") ? hex64(Catalogue::open(env, out + "/" + name)->hash())
                                         : read_text(env, out + "/" + name);
  }
  return files;
}

inline std::vector<std::string> names_of(const std::map<std::string, std::string>& files) {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : files) names.push_back(name);
  return names;
}

}  // namespace keiko::data
