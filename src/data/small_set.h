// What the tests of this room share: a small data set that they write and index themselves.

#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/error.h"
#include "base/temp_folder.h"
#include "data/index.h"
#include "data/synth.h"

namespace keiko::data {

inline Env* const env = default_env();

// A folder with train/CLASS/*.mp4 (24 clips of 16 frames, 32x32), test/CLASS/*.mp4 (8), and
// train.kix.
class SmallSet : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    SynthOptions o;
    o.out = folder_->path();
    o.train = 24;
    o.test = 8;
    write_synth(env, o, {});
    IndexOptions index;
    index.sources = {o.out + "/train"};
    index.out = o.out + "/train.kix";
    build_catalogue(env, index, {});
  }
  static void TearDownTestSuite() { delete folder_; }
  static std::string path(const std::string& name) { return folder_->path() + "/" + name; }
  static inline TempFolder* folder_ = nullptr;
};

// The message of the Error that `work` throws, or "no error".
inline std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace keiko::data
