// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace deltacome {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

void write(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

/// Lets no file of this process grow beyond a size; writes fail with EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t max_bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit now{.rlim_cur = max_bytes, .rlim_max = old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit old_{};
};

TEST(MappedFile, ShowsTheBytesAsLongAsAnOwnerLives) {
  const TempDir dir;
  write(dir / "f", "abc");
  const auto file = MappedFile::open(dir / "f");
  fs::remove(dir / "f");
  ASSERT_EQ(file->bytes().size(), 3u);
  EXPECT_EQ(file->bytes()[2], std::byte{'c'});
  EXPECT_EQ(file->path(), dir / "f");
}

TEST(MappedFile, TakesAnEmptyFileAndRefusesWhatIsNoFile) {
  const TempDir dir;
  write(dir / "empty", "");
  EXPECT_TRUE(MappedFile::open(dir / "empty")->bytes().empty());
  const auto open = [&](const std::string& name) { MappedFile::open(dir / name); };
  expect_error(ErrorCode::kNotFound, "none: no such file", [&] { open("none"); });
  expect_error(ErrorCode::kNotFound, "no such file", [&] { open("empty/below"); });
  expect_error(ErrorCode::kIo, "it is a directory", [&] { open("."); });
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::kIo, "not a regular file", [&] { open("pipe"); });
}

TEST(MappedFile, ReportsMissingPermission) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const TempDir dir;
  write(dir / "f", "abc");
  fs::permissions(dir / "f", fs::perms::none);
  expect_error(ErrorCode::kIo, "Permission denied", [&] { MappedFile::open(dir / "f"); });
}

TEST(ReleasePages, LeavesEveryByteReadable) {
  const TempDir dir;
  const std::string text(3 * 4096 + 17, 'x');
  write(dir / "f", text);
  const auto file = MappedFile::open(dir / "f");
  const std::string before = sha256_hex(file->bytes());
  release_pages(file->bytes());
  release_pages(file->bytes().subspan(5000, 100));
  release_pages(file->bytes().last(1));
  EXPECT_EQ(sha256_hex(file->bytes()), before);
}

TEST(ReleasePages, LeavesMemoryThatIsNoMappedFileAlone) {
  const TempDir dir;
  write(dir / "f", "abc");
  const auto file = MappedFile::open(dir / "f");
  const std::string text(1 << 20, 'x');  // MADV_DONTNEED would zero its pages
  release_pages(bytes_of(text));
  release_pages({});
  EXPECT_EQ(text, std::string(1 << 20, 'x'));
}

TEST(ReadTextFile, ReadsTheWholeFileUpToItsLimit) {
  const TempDir dir;
  write(dir / "f", "hello");
  write(dir / "empty", "");
  EXPECT_EQ(read_text_file(dir / "f"), "hello");
  EXPECT_EQ(read_text_file(dir / "f", 5), "hello");
  EXPECT_EQ(read_text_file(dir / "empty"), "");
  expect_error(ErrorCode::kCorrupt, "5 bytes, expected at most 4",
               [&] { read_text_file(dir / "f", 4); });
  expect_error(ErrorCode::kNotFound, "no such file", [&] { read_text_file(dir / "none"); });
  expect_error(ErrorCode::kIo, "a directory", [&] { read_text_file(dir.path()); });
}

TEST(ReadTextFile, ReadsAFileOfUnknownSize) {
  // /proc files have size 0.
  EXPECT_FALSE(read_text_file("/proc/self/status").empty());
}

TEST(WriteFileAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const TempDir dir;
  write(dir / "f", "old");
  write_file_atomically(dir / "f", "new contents");
  EXPECT_EQ(read_text_file(dir / "f"), "new contents");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"f"});
}

TEST(WriteFileAtomically, ReportsWhereItCannotWrite) {
  const TempDir dir;
  fs::create_directories(dir / "d");
  const auto write_to = [&](const fs::path& path) { write_file_atomically(path, "x"); };
  expect_error(ErrorCode::kIo, "No such file", [&] { write_to(dir / "none/f"); });
  expect_error(ErrorCode::kIo, "cannot write", [&] { write_to(dir / "d"); });
  expect_error(ErrorCode::kIo, "not a file name", [&] { write_to(dir / "d/"); });
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"d"});
}

TEST(AtomicFile, IsAbsentUntilCommittedAndRemovedWhenAbandoned) {
  const TempDir dir;
  {
    AtomicFile file(dir / "f");
    file.append(bytes_of("abc"));
    EXPECT_FALSE(fs::exists(dir / "f"));
    EXPECT_EQ(names_in(dir.path()).size(), 1u);
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(AtomicFile, KeepsTheOrderOfSmallAndLargePieces) {
  const TempDir dir;
  const std::string large(3u << 20, 'L');
  AtomicFile first(dir / "f");
  AtomicFile second(dir / "f");  // two writers of one name do not share a temporary file
  for (const std::string& piece : {std::string("a"), large, std::string("b"), large}) {
    first.append(bytes_of(piece));
  }
  second.append(bytes_of("second"));
  first.commit();
  EXPECT_EQ(read_text_file(dir / "f"), "a" + large + "b" + large);
  second.commit();
  EXPECT_EQ(read_text_file(dir / "f"), "second");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"f"});
}

TEST(AtomicFile, ReportsAWriteThatFailsAndLeavesTheOldFile) {
  const TempDir dir;
  write(dir / "f", "old");
  const FileSizeLimit limit(1024);  // stands in for a full disk
  AtomicFile file(dir / "f");
  file.append(bytes_of(std::string(4096, 'x')));
  expect_error(ErrorCode::kIo, "File too large", [&] { file.commit(); });
  EXPECT_EQ(read_text_file(dir / "f"), "old");
}

TEST(Sha256, MatchesTheStandardVectorsInAnyPieces) {
  EXPECT_EQ(sha256_hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(sha256_hex(bytes_of("abc")), abc);
  Sha256 hash;
  hash.update("a");
  hash.update("");
  hash.update("bc");
  EXPECT_EQ(hash.hex(), abc);
}

TEST(StagedDirectory, AppearsWholeOnCommit) {
  const TempDir dir;
  StagedDirectory staged(dir / "out");
  EXPECT_EQ(staged.staging().parent_path(), fs::canonical(dir.path()));
  EXPECT_EQ(staged.staging().filename().string().front(), '.');
  write(staged.staging() / "f", "x");
  fs::create_directory(staged.staging() / "sub");
  write(staged.staging() / "sub" / "g", "y");
  EXPECT_FALSE(fs::exists(dir / "out"));
  staged.commit();
  EXPECT_EQ(read_text_file(dir / "out/sub/g"), "y");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"out"});
}

TEST(StagedDirectory, IsRemovedIfNotCommitted) {
  const TempDir dir;
  {
    const StagedDirectory staged(dir / "out");
    write(staged.staging() / "f", "x");
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(StagedDirectory, TakesAnEmptyDirectoryAlsoByLinkOrWithASlash) {
  const TempDir dir;
  fs::create_directory(dir / "out");
  fs::create_directory_symlink("out", dir / "link");
  {
    StagedDirectory staged(dir / "link/");
    write(staged.staging() / "f", "x");
    staged.commit();
  }
  EXPECT_EQ(read_text_file(dir / "out/f"), "x");
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
}

TEST(StagedDirectory, RefusesATargetThatHoldsSomething) {
  const TempDir dir;
  fs::create_directory(dir / "out");
  write(dir / "out/f", "x");
  write(dir / "file", "x");
  expect_error(ErrorCode::kInvalidArgument, "exists and is not empty",
               [&] { StagedDirectory staged(dir / "out"); });
  expect_error(ErrorCode::kInvalidArgument, "exists and is not a directory",
               [&] { StagedDirectory staged(dir / "file"); });
  expect_error(ErrorCode::kIo, "No such file", [&] { StagedDirectory staged(dir / "none/out"); });
}

TEST(StagedDirectory, RefusesATargetFilledMeanwhile) {
  const TempDir dir;
  {
    StagedDirectory staged(dir / "out");
    fs::create_directory(dir / "out");
    write(dir / "out/f", "kept");
    expect_error(ErrorCode::kInvalidArgument, "is not empty", [&] { staged.commit(); });
  }
  EXPECT_EQ(read_text_file(dir / "out/f"), "kept");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"out"});
}

}  // namespace
}  // namespace deltacome
