// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "io/files.h"
#include "io/posix.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail_io(const char* verb, const fs::path& path, const std::error_code& error) {
  fail(ErrorCode::kIo, "cannot {} {}: {}", verb, path.string(), error.message());
}

[[noreturn]] void fail_not_empty(const fs::path& target) {
  fail(ErrorCode::kInvalidArgument, "output directory {} exists and is not empty", target.string());
}

void check_target(const fs::path& target) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target, error);
  if (status.type() == fs::file_type::not_found) return;
  if (error) fail_io("read", target, error);
  if (!fs::is_directory(status)) {
    fail(ErrorCode::kInvalidArgument, "output directory {} exists and is not a directory",
         target.string());
  }
  const bool empty = fs::is_empty(target, error);
  if (error) fail_io("read", target, error);
  if (!empty) fail_not_empty(target);
}

/// Absolute, symbolic links resolved, no trailing slash: a name that rename(2) can replace.
fs::path resolve(const fs::path& target) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(fs::absolute(target, error), error);
  if (error) fail_io("create", target, error);
  if (!path.has_filename()) path = path.parent_path();
  return path;
}

void sync_tree(const fs::path& directory) {
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (!entry->is_symlink()) sync_path(entry->path());
  }
  if (error) fail_io("read", directory, error);
  sync_path(directory);
}

}  // namespace

StagedDirectory::StagedDirectory(fs::path target) : target_(resolve(target)) {
  check_target(target_);
  for (int attempt = 0; attempt < kMaxPartialAttempts; ++attempt) {
    staging_ = partial_path(target_, attempt);
    if (::mkdir(staging_.c_str(), 0777) == 0) return;
    if (errno != EEXIST) break;
  }
  fail_errno("create", target_);
}

StagedDirectory::~StagedDirectory() {
  if (committed_) return;
  std::error_code ignored;  // a leftover is hidden and harmless
  fs::remove_all(staging_, ignored);
}

void StagedDirectory::commit() {
  DELTACOME_CHECK(!committed_);
  sync_tree(staging_);
  if (::rename(staging_.c_str(), target_.c_str()) != 0) {
    if (errno == ENOTEMPTY || errno == EEXIST) fail_not_empty(target_);
    fail_errno("create", target_);
  }
  committed_ = true;
  sync_path(parent_directory(target_));
}

}  // namespace deltacome
