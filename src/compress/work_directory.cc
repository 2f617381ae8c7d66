// SPDX-License-Identifier: Apache-2.0
#include "compress/work_directory.h"

#include <algorithm>
#include <sstream>

#include "core/check.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIdentityName = "run.txt";

/// The first line in which two texts differ, as "got, expected".
std::string first_difference(const std::string& stored, const std::string& wanted) {
  std::istringstream a(stored), b(wanted);
  std::string x, y;
  for (;;) {
    const bool more_a = static_cast<bool>(std::getline(a, x)),
               more_b = static_cast<bool>(std::getline(b, y));
    if (!more_a) x.clear();
    if (!more_b) y.clear();
    if (x != y || (!more_a && !more_b)) return fmt::format("it has \"{}\", this run \"{}\"", x, y);
  }
}

/// "dir/" is "dir".
fs::path without_slash(const fs::path& out) {
  return out.has_filename() ? out : out.parent_path();
}

fs::path partial_of(const fs::path& out) {
  return without_slash(out).string() + ".partial";
}

/// Refuses to take over a directory that no compression made. One that was killed at once may have
/// left no more than the beginning of its run.txt.
void expect_own(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error) || fs::exists(path / kIdentityName, error)) return;
  const bool own = fs::is_directory(path, error) &&
                   std::all_of(fs::directory_iterator(path), fs::directory_iterator(),
                               [](const fs::directory_entry& entry) {
                                 return entry.path().filename().string().starts_with(
                                     fmt::format(".{}.", kIdentityName));
                               });
  if (own) return;
  fail(ErrorCode::kInvalidArgument,
       "{} is needed for unfinished work, but holds something else: it has no {}", path.string(),
       kIdentityName);
}

}  // namespace

void check_output(const fs::path& out) {
  const fs::path target = without_slash(out);
  std::error_code error;
  if (fs::exists(target, error) &&
      !(fs::is_directory(target, error) && fs::is_empty(target, error))) {
    fail(ErrorCode::kInvalidArgument, "output {} exists and is not an empty directory",
         target.string());
  }
}

WorkDirectory::WorkDirectory(const fs::path& out, const std::string& identity, bool resume)
    : path_(partial_of(out)) {
  check_output(out);
  expect_own(path_);
  std::error_code error;
  const fs::path file = path_ / kIdentityName;
  if (resume && fs::exists(file, error)) {
    if (const std::string stored = read_text_file(file); stored != identity) {
      fail(ErrorCode::kMismatch,
           "{} holds parts of another run ({}); run without --resume to start over", path_.string(),
           first_difference(stored, identity));
    }
    return;
  }
  fs::remove_all(path_, error);
  if (!fs::create_directories(path_, error)) {
    fail(ErrorCode::kIo, "cannot create {}: {}", path_.string(), error.message());
  }
  write_file_atomically(file, identity);
}

std::optional<std::vector<CodedTensor>> WorkDirectory::read(const std::string& part) const {
  const fs::path file = path_ / (part + ".safetensors");
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return std::nullopt;
  try {
    return read_shard(file);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    return std::nullopt;  // a damaged part is as good as none: it is made again
  }
}

void WorkDirectory::write(const std::string& part, const std::vector<CodedTensor>& tensors) const {
  write_shard(path_ / (part + ".safetensors"), tensors);
}

void WorkDirectory::remove(const fs::path& out) {
  const fs::path path = partial_of(out);
  std::error_code ignored;
  if (fs::exists(path / kIdentityName, ignored)) fs::remove_all(path, ignored);
}

}  // namespace deltacome
