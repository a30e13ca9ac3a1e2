#include "base/env.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/open_files.h"
#include "base/temp_folder.h"

namespace keiko {
namespace {

TEST(Env, PublishReplacesTheContent) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.txt";
  publish(default_env(), path, "one");
  publish(default_env(), path, "three");
  EXPECT_EQ(read_text(default_env(), path), "three");
  EXPECT_EQ(default_env()->list(folder.path()), std::vector<std::string>{"a.txt"});
}

TEST(Env, ErrorsNameThePathAndTheCause) {
  try {
    default_env()->open("/no/such/file");
    FAIL() << "opened a file that does not exist";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "/no/such/file: cannot open: No such file or directory");
    EXPECT_EQ(e.kind(), ErrorKind::kIo);
  }
}

TEST(Env, APipeIsRefusedInsteadOfWaitedFor) {
  const TempFolder folder;
  const std::string path = folder.path() + "/pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  ::alarm(20);  // a hang must not be one of the whole test program
  EXPECT_THROW(default_env()->open(path), Error);
  ::alarm(0);
}

TEST(Env, AppendToCutsWhatCameAfterTheRecordedLength) {
  const TempFolder folder;
  const std::string path = folder.path() + "/log";
  publish(default_env(), path, "0123456789");
  default_env()->append_to(path, 4)->append("x");
  EXPECT_EQ(read_text(default_env(), path), "0123x");
  EXPECT_THROW(default_env()->append_to(path, 6), Error);
}

TEST(Env, OverwritingChangesBytesInPlaceAndAppendingGoesOnAtTheEnd) {
  const TempFolder folder;
  const std::string path = folder.path() + "/f";
  const auto file = default_env()->create(path);
  file->append("0123456789");
  const std::string two = "ab";
  file->overwrite(3, {reinterpret_cast<const uint8_t*>(two.data()), two.size()});
  file->append("x");
  EXPECT_EQ(read_text(default_env(), path), "012ab56789x");
}

TEST(Env, RemovingATreeLeavesWhatItsLinksLeadTo) {
  const TempFolder folder;
  Env* const env = default_env();
  const std::string tree = folder.path() + "/tree", kept = folder.path() + "/kept";
  env->make_folder(tree + "/inside");
  env->make_folder(kept);
  publish(env, tree + "/inside/file", "gone");
  publish(env, kept + "/file", "stays");
  ASSERT_EQ(::symlink(kept.c_str(), (tree + "/folder-link").c_str()), 0);
  ASSERT_EQ(::symlink((kept + "/file").c_str(), (tree + "/file-link").c_str()), 0);
  ASSERT_EQ(::symlink("/no/such/file", (tree + "/inside/dangling").c_str()), 0);
  EXPECT_TRUE(env->status(tree + "/folder-link").is_folder);
  EXPECT_TRUE(env->status(tree + "/folder-link").is_link);
  EXPECT_FALSE(env->status(tree + "/inside/dangling").exists);
  remove_tree(env, tree);
  EXPECT_FALSE(env->status(tree).exists);
  EXPECT_EQ(read_text(env, kept + "/file"), "stays");
  // Nor is a tree that is itself a link followed.
  ASSERT_EQ(::symlink(kept.c_str(), tree.c_str()), 0);
  remove_tree(env, tree);
  EXPECT_FALSE(env->status(tree).is_link);
  EXPECT_EQ(read_text(env, kept + "/file"), "stays");
}

TEST(Hash, SampledHashNoticesEveryKindOfChange) {
  const TempFolder folder;
  const std::string path = folder.path() + "/v";
  std::string content(300000, 'a');
  publish(default_env(), path, content);
  const uint64_t before = sampled_xxh3_of_file(path);
  EXPECT_EQ(before, sampled_xxh3_of_file(path));
  for (size_t at : {size_t{0}, content.size() / 2 + 5, content.size() - 1}) {
    std::string changed = content;
    changed[at] = 'b';
    publish(default_env(), path, changed);
    EXPECT_NE(before, sampled_xxh3_of_file(path)) << "byte " << at;
  }
  publish(default_env(), path, content + "a");
  EXPECT_NE(before, sampled_xxh3_of_file(path));
}

TEST(Hash, PiecesGiveTheHashOfTheWhole) {
  const TempFolder folder;
  const std::string path = folder.path() + "/v";
  std::string content;
  for (int i = 0; i < 3'000'000; ++i) content += char(i * i >> 3);
  publish(default_env(), path, content);
  EXPECT_EQ(xxh3_of_file(path), xxh3(std::string_view(content)));
}

TEST(OpenFiles, KeepsTheFilesReadLastOpen) {
  const TempFolder folder;
  const auto path = [&](int i) { return folder.path() + "/" + std::to_string(i); };
  for (int i = 0; i < 4; ++i) publish(default_env(), path(i), std::string(size_t(i + 1), 'x'));
  OpenFiles files(default_env(), 2);
  for (int i : {0, 1, 0, 1, 0}) EXPECT_EQ(files.get(path(i)).size(), i + 1);
  EXPECT_EQ(files.opens(), 2);
  files.get(path(2));  // closes 1, the one read longest ago
  files.get(path(0));
  EXPECT_EQ(files.opens(), 3);
  files.get(path(1));
  EXPECT_EQ(files.opens(), 4);
  files.forget(path(1));
  files.forget(path(3));
  EXPECT_EQ(files.get(path(1)).size(), 2);
  EXPECT_EQ(files.opens(), 5);
  EXPECT_THROW(files.get(path(9)), Error);
}

TEST(Env, AReadThatComesUpShortIsTheSystemsFaultBeforeTheEndAndTheContentsBehindIt) {
  const TempFolder folder;
  const std::string path = folder.path() + "/f";
  publish(default_env(), path, std::string(100, 'x'));
  const auto kind_of = [](const ReadableFile& file, int64_t offset, size_t size) {
    std::vector<uint8_t> out(size);
    try {
      file.read(offset, out);
    } catch (const Error& e) {
      return int(e.kind());
    }
    return -1;
  };
  const auto file = default_env()->open(path);
  EXPECT_EQ(kind_of(*file, 0, 100), -1);
  EXPECT_EQ(kind_of(*file, 90, 20), int(ErrorKind::kData));
  EXPECT_EQ(kind_of(*file, 200, 1), int(ErrorKind::kData));
  default_env()->append_to(path, 50);  // shrinks under the reader
  EXPECT_EQ(kind_of(*file, 0, 50), -1);
  EXPECT_EQ(kind_of(*file, 40, 20), int(ErrorKind::kIo));
}

}  // namespace
}  // namespace keiko
