// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "io/posix.h"

namespace deltacome {
namespace {

constexpr size_t kBufferBytes = 1u << 20;

/// The live mappings, so that release_pages() never touches other memory: MADV_DONTNEED would
/// zero a heap block.
class Mappings {
 public:
  static Mappings& instance() {
    // Never destroyed: a mapping with static storage duration may end after this would.
    static auto* mappings = new Mappings;
    return *mappings;
  }
  void add(const std::byte* data, size_t size) {
    const std::lock_guard lock(mutex_);
    regions_[reinterpret_cast<uintptr_t>(data)] = size;
  }
  void remove(const std::byte* data) noexcept {
    const std::lock_guard lock(mutex_);
    regions_.erase(reinterpret_cast<uintptr_t>(data));
  }
  /// Runs under the lock, so that a mapping cannot end (and its addresses be reused) meanwhile.
  void release(std::span<const std::byte> bytes) noexcept {
    const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
    const std::lock_guard lock(mutex_);
    auto region = regions_.upper_bound(begin);
    if (region == regions_.begin()) return;
    --region;
    if (bytes.size() > region->second || begin - region->first > region->second - bytes.size()) {
      return;
    }
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t first = begin / page * page;
    ::madvise(reinterpret_cast<void*>(first), begin + bytes.size() - first, MADV_DONTNEED);
  }

 private:
  std::mutex mutex_;
  std::map<uintptr_t, size_t> regions_;  // address -> bytes
};

/// Opens a regular file for reading and tells its size.
int open_regular(const std::filesystem::path& path, size_t& size) {
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      fail(ErrorCode::kNotFound, "{}: no such file", path.string());
    }
    fail_errno("open", path);
  }
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  const int error = errno;
  if (known && S_ISREG(info.st_mode)) {
    size = static_cast<size_t>(info.st_size);
    return fd;
  }
  ::close(fd);
  errno = error;
  if (!known) fail_errno("read", path);
  fail(ErrorCode::kIo, "cannot read {}: it is {}", path.string(),
       S_ISDIR(info.st_mode) ? "a directory" : "not a regular file");
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void fail_errno(const char* verb, const std::filesystem::path& path) {
  const std::string reason = std::generic_category().message(errno);
  fail(ErrorCode::kIo, "cannot {} {}: {}", verb, path.string(), reason);
}

void sync_path(const std::filesystem::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) fail_errno("open", path);
  // EINVAL: a file system without fsync of directories; there is nothing to wait for.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) fail_errno("write", path);
}

std::filesystem::path partial_path(const std::filesystem::path& path, int attempt) {
  return path.parent_path() /
         fmt::format(".{}.partial-{}-{}", path.filename().string(), ::getpid(), attempt);
}

std::filesystem::path parent_directory(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// A file that another process shortens while it is mapped raises SIGBUS on access; guarding
// against that is out of scope, as for every program that maps its weights.
std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  size_t size = 0;
  const FileDescriptor fd(open_regular(path, size));
  const std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  if (size == 0) return file;  // mmap refuses an empty range
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) fail_errno("map", path);
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = size;
  Mappings::instance().add(file->data_, size);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  Mappings::instance().remove(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void release_pages(std::span<const std::byte> bytes) noexcept {
  if (!bytes.empty()) Mappings::instance().release(bytes);
}

std::string directory_name(const std::filesystem::path& path) {
  const std::filesystem::path full = std::filesystem::absolute(path).lexically_normal();
  return full.has_filename() ? full.filename().string() : full.parent_path().filename().string();
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  size_t size = 0;
  const FileDescriptor fd(open_regular(path, size));
  std::string text;
  for (;;) {
    if (size > max_bytes || text.size() > max_bytes) {
      fail(ErrorCode::kCorrupt, "{}: {} bytes, expected at most {}", path.string(),
           std::max(size, text.size()), max_bytes);
    }
    // One byte more than the size: the end of the file shows without another round.
    const size_t old_size = text.size();
    text.resize(std::max(size, old_size) + 1);
    const ssize_t n = ::read(fd.get(), text.data() + old_size, text.size() - old_size);
    if (n < 0 && errno != EINTR) fail_errno("read", path);
    text.resize(old_size + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n == 0) return text;
  }
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  if (!path_.has_filename()) {
    fail(ErrorCode::kIo, "cannot create {}: it is not a file name", path_.string());
  }
  for (int attempt = 0; attempt < kMaxPartialAttempts && fd_ < 0; ++attempt) {
    temporary_ = partial_path(path_, attempt);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) fail_errno("create", path_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  DELTACOME_CHECK(fd_ >= 0);
  if (buffer_.size() + bytes.size() > kBufferBytes) {
    write(buffer_);
    buffer_.clear();
  }
  if (bytes.size() > kBufferBytes) return write(bytes);
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void AtomicFile::commit() {
  DELTACOME_CHECK(fd_ >= 0);
  write(buffer_);
  buffer_.clear();
  if (::fsync(fd_) != 0) fail_errno("write", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_errno("write", path_);
  ::close(fd_);
  fd_ = -1;
  sync_path(parent_directory(path_));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(contents)));
  file.commit();
}

}  // namespace deltacome
