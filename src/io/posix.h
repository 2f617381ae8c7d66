// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace deltacome {

/// Closes a file descriptor at the end of the scope.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// Throws kIo: "cannot <verb> <path>: <text of errno>".
[[noreturn]] void fail_errno(const char* verb, const std::filesystem::path& path);

/// fsync of a file or directory that is not open. Throws kIo.
void sync_path(const std::filesystem::path& path);

/// ".<name>.partial-<pid>-<attempt>" beside `path`.
std::filesystem::path partial_path(const std::filesystem::path& path, int attempt);

/// How many names a partial file or directory tries: leftovers of a killed process with the same
/// id, or other threads of this one, may hold some.
inline constexpr int kMaxPartialAttempts = 1000;

/// The directory that holds `path`; "." for a bare name.
std::filesystem::path parent_directory(const std::filesystem::path& path);

}  // namespace deltacome
