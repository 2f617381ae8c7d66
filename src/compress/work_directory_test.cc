// SPDX-License-Identifier: Apache-2.0
#include "compress/work_directory.h"

#include <gtest/gtest.h>

#include "deltacome/error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

CodedTensor raw_tensor(const std::string& name) {
  MatrixFormat format{.codec = Codec::kRaw,
                      .shape = {8},
                      .raw_dtype = DType::kBf16,
                      .base_rows = 8,
                      .dense = {},
                      .tiers = {}};
  return {name,
          format,
          std::vector<std::byte>(16, std::byte{7}),
          {.relative_error = 0.5, .energy = -1, .stable_rank = -1}};
}

TEST(WorkDirectory, GivesBackFinishedPartsOfTheSameRunOnly) {
  const test::TempDir directory;
  const auto out = directory.path() / "archive";
  {
    const WorkDirectory work(out, "base a\nbits 1\n", false);
    work.write("layer-00000", {raw_tensor("n")});
  }
  const WorkDirectory again(out, "base a\nbits 1\n", true);
  const auto part = again.read("layer-00000");
  ASSERT_TRUE(part.has_value());
  ASSERT_EQ(part->size(), 1u);
  EXPECT_EQ((*part)[0].name, "n");
  EXPECT_EQ((*part)[0].blob, raw_tensor("n").blob);
  EXPECT_EQ((*part)[0].format, raw_tensor("n").format);
  EXPECT_EQ((*part)[0].stats.relative_error, 0.5);
  EXPECT_FALSE(again.read("layer-00001").has_value());
  try {
    const WorkDirectory other(out, "base a\nbits 2\n", true);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMismatch);
    EXPECT_NE(std::string(error.what()).find("it has \"bits 1\", this run \"bits 2\""),
              std::string::npos)
        << error.what();
  }
  const WorkDirectory fresh(out, "base a\nbits 2\n", false);
  EXPECT_FALSE(fresh.read("layer-00000").has_value()) << "without resume the work starts over";
}

TEST(WorkDirectory, ADamagedPartIsAsGoodAsNone) {
  const test::TempDir directory;
  const auto out = directory.path() / "archive";
  const WorkDirectory work(out, "a\n", false);
  work.write("layer-00000", {raw_tensor("n")});
  const auto file = directory.path() / "archive.partial" / "layer-00000.safetensors";
  std::string bytes = read_text_file(file);
  bytes.back() ^= 1;
  write_file_atomically(file, bytes);
  EXPECT_FALSE(work.read("layer-00000").has_value());
}

TEST(WorkDirectory, RefusesAnOutputThatIsThere) {
  const test::TempDir directory;
  write_file_atomically(directory.path() / "file", "x");
  EXPECT_THROW(WorkDirectory(directory.path(), "a\n", false), Error);
  EXPECT_THROW(WorkDirectory(directory.path() / "file", "a\n", true), Error);
}

TEST(WorkDirectory, LeavesADirectoryOfSomebodyElseAlone) {
  const test::TempDir directory;
  const auto other = directory.path() / "archive.partial" / "notes.txt";
  std::filesystem::create_directory(other.parent_path());
  write_file_atomically(other, "precious");
  for (const bool resume : {false, true})
    EXPECT_THROW(WorkDirectory(directory.path() / "archive", "a\n", resume), Error);
  WorkDirectory::remove(directory.path() / "archive");
  EXPECT_EQ(read_text_file(other), "precious");
}

TEST(WorkDirectory, TakesOverWhatAKilledBeginningLeft) {
  const test::TempDir directory;
  const auto partial = directory.path() / "archive.partial";
  std::filesystem::create_directory(partial);
  write_file_atomically(partial / ".run.txt.partial-1-0", "base");
  const WorkDirectory work(directory.path() / "archive/", "a\n", true);
  EXPECT_EQ(read_text_file(partial / "run.txt"), "a\n");
}

}  // namespace
}  // namespace deltacome
