// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome {

/// A file mapped read-only. The bytes stay valid as long as an owner lives.
class MappedFile {
 public:
  /// Throws kNotFound if there is no such file, kIo if it cannot be mapped. An empty file is an
  /// empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

/// Tells the kernel that pages of a MappedFile are not needed now, so that reading a checkpoint
/// once does not fill the resident set. The bytes stay readable; other memory is left alone.
/// Thread-safe.
void release_pages(std::span<const std::byte> bytes) noexcept;

/// The last part of a path, also of "." and "dir/".
std::string directory_name(const std::filesystem::path& path);

/// The whole file. Throws kNotFound, kIo, or kCorrupt if it is larger than max_bytes.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = 256u << 20);

/// A file that appears under its name whole or not at all: bytes go to a hidden temporary file
/// beside it, and commit() fsyncs and renames it over `path`. Uncommitted, it is removed.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  // throws kIo
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);  // buffered; throws kIo
  void commit();                                  // at most once; throws kIo

 private:
  void write(std::span<const std::byte> bytes);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::vector<std::byte> buffer_;
  int fd_ = -1;
};

/// Replaces `path` atomically and durably: temporary file beside it, fsync, rename. Throws kIo.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  std::string hex();  // lower case; ends the computation

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::span<const std::byte> bytes);

/// A directory that appears whole or not at all: files are made in `staging()`, a hidden directory
/// beside the target, and commit() fsyncs and renames it. Uncommitted, it is removed at the end.
class StagedDirectory {
 public:
  /// Throws kInvalidArgument if `target` exists and is not an empty directory, kIo.
  explicit StagedDirectory(std::filesystem::path target);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  const std::filesystem::path& staging() const noexcept { return staging_; }
  void commit();  // throws kInvalidArgument if `target` has been filled meanwhile, kIo

 private:
  std::filesystem::path target_;
  std::filesystem::path staging_;
  bool committed_ = false;
};

}  // namespace deltacome
