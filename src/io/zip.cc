// SPDX-License-Identifier: Apache-2.0
#include "io/zip.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/check.h"
#include "io/json.h"
#include "io/safetensors_layout.h"

namespace deltacome {
namespace {

// Sizes and marks of the records, after PKWARE's APPNOTE 6.3.
constexpr uint64_t kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr uint64_t kDirectoryBytes = 46, kLocalBytes = 30;
constexpr uint32_t kEndMark = 0x06054b50, kEnd64Mark = 0x06064b50, kLocatorMark = 0x07064b50;
constexpr uint32_t kDirectoryMark = 0x02014b50, kLocalMark = 0x04034b50;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint32_t kIn64 = 0xffffffff;  // the value is in a ZIP64 field
constexpr uint16_t kExtra64 = 1;        // the id of these fields
constexpr uint64_t kMaxEntries = 1'000'000;

/// Little-endian fields at offsets that are checked against the end of the file.
class Bytes {
 public:
  Bytes(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  uint64_t size() const noexcept { return bytes_.size(); }
  std::span<const std::byte> part(uint64_t at, uint64_t n, const char* what) const {
    if (at > size() || n > size() - at) {
      fail(ErrorCode::kCorrupt, "{}: {} at byte {} has {} bytes, but the file has {}", where_, what,
           at, n, size());
    }
    return bytes_.subspan(at, n);
  }
  uint64_t field(uint64_t at, int n, const char* what) const {
    uint64_t value = 0;
    const auto bytes = part(at, static_cast<uint64_t>(n), what);
    for (int i = n - 1; i >= 0; --i)
      value = value << 8 | std::to_integer<uint64_t>(bytes[static_cast<size_t>(i)]);
    return value;
  }
  bool has_mark(uint64_t at, uint32_t mark) const {
    return at <= size() && size() - at >= 4 && field(at, 4, "a mark") == mark;
  }
  void expect_mark(uint64_t at, uint32_t mark, const char* what) const {
    if (field(at, 4, what) == mark) return;
    fail(ErrorCode::kCorrupt, "{}: there is no {} at byte {}", where_, what, at);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
};

struct Directory {
  uint64_t offset = 0, n_entries = 0;
};

Directory find_directory(const Bytes& file, const std::string& where) {
  if (file.size() < kEndBytes) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes, expected a ZIP file of at least {}", where,
         file.size(), kEndBytes);
  }
  const uint64_t last = file.size() - kEndBytes;
  const uint64_t first = last - std::min(last, kMaxComment);
  uint64_t end = last;
  while (!file.has_mark(end, kEndMark)) {
    if (end == first) {
      fail(ErrorCode::kCorrupt, "{}: not a ZIP file, or cut: it has no end-of-directory record",
           where);
    }
    --end;
  }
  if (file.field(end + 4, 2, "the end record") != 0) {
    fail(ErrorCode::kUnsupported, "{}: a ZIP file of several parts, expected one", where);
  }
  if (end >= kLocatorBytes && file.has_mark(end - kLocatorBytes, kLocatorMark)) {
    const uint64_t at = file.field(end - kLocatorBytes + 8, 8, "the ZIP64 locator");
    file.part(at, kEnd64Bytes, "the ZIP64 end record");
    file.expect_mark(at, kEnd64Mark, "ZIP64 end record");
    return {file.field(at + 48, 8, "the ZIP64 end record"),
            file.field(at + 32, 8, "the ZIP64 end record")};
  }
  return {file.field(end + 16, 4, "the end record"), file.field(end + 10, 2, "the end record")};
}

/// A directory entry with its fields from the ZIP64 extra, if they are there.
struct Entry {
  std::string name;
  uint64_t stored = 0, size = 0, offset = 0;
  uint64_t method = 0, flags = 0;
  uint64_t record_bytes = 0;
};

Entry read_entry(const Bytes& file, uint64_t at, const std::string& where) {
  constexpr const char* kWhat = "a directory entry";
  file.part(at, kDirectoryBytes, kWhat);
  file.expect_mark(at, kDirectoryMark, "directory entry");
  const uint64_t n_name = file.field(at + 28, 2, kWhat), n_extra = file.field(at + 30, 2, kWhat);
  const uint64_t n_comment = file.field(at + 32, 2, kWhat);
  const auto name = file.part(at + kDirectoryBytes, n_name, "the name of an entry");
  Entry entry{.name = {reinterpret_cast<const char*>(name.data()), name.size()},
              .stored = file.field(at + 20, 4, kWhat),
              .size = file.field(at + 24, 4, kWhat),
              .offset = file.field(at + 42, 4, kWhat),
              .method = file.field(at + 10, 2, kWhat),
              .flags = file.field(at + 8, 2, kWhat),
              .record_bytes = kDirectoryBytes + n_name + n_extra + n_comment};
  if (!is_plain_name(entry.name)) {
    fail(ErrorCode::kCorrupt, "{}: the entry name {} is empty or holds a control character", where,
         quote(entry.name));
  }
  uint64_t extra = at + kDirectoryBytes + n_name;
  const uint64_t extra_end = extra + n_extra;
  file.part(extra, n_extra, "the extra fields of an entry");
  while (extra_end - extra >= 4) {
    const uint64_t id = file.field(extra, 2, kWhat), n = file.field(extra + 2, 2, kWhat);
    extra += 4;
    if (n > extra_end - extra) {
      fail(ErrorCode::kCorrupt, "{}: entry {}: an extra field of {} bytes, {} are left", where,
           quote(entry.name), n, extra_end - extra);
    }
    uint64_t next = extra, left = id == kExtra64 ? n : 0;
    for (uint64_t* value : {&entry.size, &entry.stored, &entry.offset}) {
      if (*value != kIn64 || left < 8) continue;
      *value = file.field(next, 8, kWhat);
      next += 8;
      left -= 8;
    }
    extra += n;
  }
  return entry;
}

std::span<const std::byte> bytes_of(const Bytes& file, const Entry& entry,
                                    const std::string& where) {
  const std::string which = fmt::format("{}: entry {}", where, quote(entry.name));
  if ((entry.flags & 1) != 0) fail(ErrorCode::kUnsupported, "{}: is encrypted", which);
  if (entry.method != 0) {
    fail(ErrorCode::kUnsupported,
         "{}: compressed by method {}, expected stored bytes (method 0), as torch.save writes them",
         which, entry.method);
  }
  if (entry.stored != entry.size) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes are stored of {}", which, entry.stored, entry.size);
  }
  constexpr const char* kWhat = "the header of an entry";
  file.part(entry.offset, kLocalBytes, kWhat);
  file.expect_mark(entry.offset, kLocalMark, "header of an entry");
  const uint64_t begin = entry.offset + kLocalBytes + file.field(entry.offset + 26, 2, kWhat) +
                         file.field(entry.offset + 28, 2, kWhat);
  return file.part(begin, entry.size, "an entry");
}

}  // namespace

std::map<std::string, std::span<const std::byte>> read_stored_zip(std::span<const std::byte> bytes,
                                                                  const std::string& where) {
  const Bytes file(bytes, where);
  const Directory directory = find_directory(file, where);
  if (directory.n_entries > kMaxEntries) {
    fail(ErrorCode::kCorrupt, "{}: {} entries, expected at most {}", where, directory.n_entries,
         kMaxEntries);
  }
  std::map<std::string, std::span<const std::byte>> entries;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.n_entries; ++i) {
    const Entry entry = read_entry(file, at, where);
    at += entry.record_bytes;
    if (!entries.emplace(entry.name, bytes_of(file, entry, where)).second) {
      fail(ErrorCode::kCorrupt, "{}: entry {} is there twice", where, quote(entry.name));
    }
  }
  return entries;
}

}  // namespace deltacome
