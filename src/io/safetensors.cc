// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/check.h"
#include "io/json.h"
#include "io/safetensors_layout.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr size_t kSizeBytes = 8;  // the u64 in front of the header

/// Data types of the format that deltacome has no use for.
constexpr std::array<std::string_view, 14> kOtherDTypes{
    "BOOL", "I16",     "U16",     "U32",     "U64",     "C64",  "F4",
    "F8",   "F8_E5M2", "F8_E8M0", "F6_E2M3", "F6_E3M2", "C128", "F8_E4M3FNUZ"};

/// One tensor of the header, before its place in the data section is checked.
struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  uint64_t begin;
  uint64_t end;
};

/// Reads the entries of one header; every message starts with the file and the tensor.
class HeaderReader {
 public:
  HeaderReader(const std::string& file, const std::string& tensor)
      : where_(fmt::format("{}: tensor {}", file, quote(tensor))) {}

  Entry read(const std::string& name, const json& value) const {
    if (!value.is_object()) {
      fail(ErrorCode::kCorrupt, "{}: got {}, expected an object with dtype, shape, data_offsets",
           where_, describe(value));
    }
    Entry entry{.name = name, .dtype = read_dtype(value), .shape = {}, .begin = 0, .end = 0};
    for (const json& extent : array(value, "shape")) {
      entry.shape.push_back(static_cast<int64_t>(count(extent, "shape")));
    }
    const json& offsets = array(value, "data_offsets");
    if (offsets.size() != 2) {
      fail(ErrorCode::kCorrupt, "{}: data_offsets has {} numbers, expected 2", where_,
           offsets.size());
    }
    entry.begin = count(offsets[0], "data_offsets");
    entry.end = count(offsets[1], "data_offsets");
    check_size(entry);
    return entry;
  }

 private:
  const json& field(const json& value, const char* key) const {
    const auto found = value.find(key);
    if (found == value.end()) fail(ErrorCode::kCorrupt, "{}: {} is missing", where_, key);
    return *found;
  }

  const json& array(const json& value, const char* key) const {
    const json& found = field(value, key);
    if (!found.is_array()) {
      fail(ErrorCode::kCorrupt, "{}: {} is {}, expected an array", where_, key, describe(found));
    }
    return found;
  }

  /// An integer from 0 to 2^63 - 1.
  uint64_t count(const json& value, const char* key) const {
    const bool valid =
        value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
    if (!valid) {
      fail(ErrorCode::kCorrupt, "{}: {} has {}, expected integers from 0 to 2^63 - 1", where_, key,
           describe(value));
    }
    return value.get<uint64_t>();
  }

  DType read_dtype(const json& value) const {
    const json& dtype = field(value, "dtype");
    if (!dtype.is_string()) {
      fail(ErrorCode::kCorrupt, "{}: dtype is {}, expected a string", where_, describe(dtype));
    }
    const auto& name = dtype.get_ref<const std::string&>();
    if (const auto known = dtype_from_name(name)) return *known;
    const bool other =
        std::find(kOtherDTypes.begin(), kOtherDTypes.end(), name) != kOtherDTypes.end();
    fail(other ? ErrorCode::kUnsupported : ErrorCode::kCorrupt,
         "{}: dtype {} is not {}; supported are F64, F32, F16, BF16, I64, I32, U8, I8, F8_E4M3",
         where_, quote(name), other ? "supported" : "known");
  }

  void check_size(const Entry& entry) const {
    const auto expected = checked_bytes(entry.shape, entry.dtype);
    if (!expected) fail(ErrorCode::kCorrupt, "{}: the size of its shape overflows", where_);
    if (entry.begin > entry.end) {
      fail(ErrorCode::kCorrupt, "{}: data_offsets [{}, {}] run backwards", where_, entry.begin,
           entry.end);
    }
    if (entry.end - entry.begin != static_cast<uint64_t>(*expected)) {
      fail(ErrorCode::kCorrupt, "{}: data_offsets span {} bytes, expected {} for {} {}", where_,
           entry.end - entry.begin, *expected, dtype_name(entry.dtype), shape_text(entry.shape));
    }
  }

  static std::string shape_text(const Shape& shape) {
    return shape.size() <= 8 ? to_string(shape) : fmt::format("of {} dimensions", shape.size());
  }

  std::string where_;
};

/// Cuts the file into its JSON text and its data section.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kSizeBytes) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes, expected at least the {} of the header size", name,
         bytes.size(), kSizeBytes);
  }
  uint64_t size = 0;
  for (size_t i = 0; i < kSizeBytes; ++i) size |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (size > kMaxHeaderBytes) {
    fail(ErrorCode::kCorrupt, "{}: header size {}, expected at most {}", name, size,
         kMaxHeaderBytes);
  }
  if (size > bytes.size() - kSizeBytes) {
    fail(ErrorCode::kCorrupt, "{}: header size {}, but only {} bytes follow", name, size,
         bytes.size() - kSizeBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kSizeBytes, size);
  if (!text.starts_with('{')) {
    fail(ErrorCode::kCorrupt, "{}: the header does not start with '{{'", name);
  }
  return text;
}

std::map<std::string, std::string> read_metadata(const json& value, const std::string& file) {
  if (!value.is_object()) {
    fail(ErrorCode::kCorrupt, "{}: {} is {}, expected an object of strings", file, kMetadataName,
         describe(value));
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      fail(ErrorCode::kCorrupt, "{}: {} {} is {}, expected a string", file, kMetadataName,
           quote(key), describe(text));
    }
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

/// In the order of the data section, each entry begins where the one before ends.
void check_tiling(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t next = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != next) {
      fail(ErrorCode::kCorrupt, "{}: tensor {}: data begins at {}, expected {} ({})", file,
           quote(entry.name), entry.begin, next, entry.begin < next ? "overlap" : "gap");
    }
    if (entry.end > data_bytes) {
      fail(ErrorCode::kCorrupt, "{}: tensor {}: data ends at {}, but the data section has {} bytes",
           file, quote(entry.name), entry.end, data_bytes);
    }
    next = entry.end;
  }
  if (next != data_bytes) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes follow the last tensor", file, data_bytes - next);
  }
}

}  // namespace

std::optional<int64_t> checked_bytes(const Shape& shape, DType dtype) noexcept {
  int64_t bytes = dtype_bytes(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

bool is_plain_name(std::string_view name) noexcept {
  return !name.empty() && std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse(file->bytes(), file, path.string());
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes,
                                       std::shared_ptr<const void> owner, const std::string& name) {
  const std::string_view text = header_text(bytes, name);
  const auto data = bytes.subspan(kSizeBytes + text.size());

  SafetensorsFile file;
  file.name_ = name;
  file.header_ = bytes.first(kSizeBytes + text.size());
  std::vector<Entry> entries;
  const json header = parse_json_object(text, name);
  for (const auto& [tensor, value] : header.items()) {
    if (tensor == kMetadataName) {
      file.metadata_ = read_metadata(value, name);
      continue;
    }
    if (!is_plain_name(tensor)) {
      fail(ErrorCode::kCorrupt, "{}: tensor name {} is empty or holds a control character", name,
           quote(tensor));
    }
    entries.push_back(HeaderReader(name, tensor).read(tensor, value));
  }
  check_tiling(entries, data.size(), name);
  for (Entry& entry : entries) {
    HostTensor tensor{.dtype = entry.dtype,
                      .shape = std::move(entry.shape),
                      .bytes = data.subspan(entry.begin, entry.end - entry.begin),
                      .owner = owner};
    file.tensors_.emplace(std::move(entry.name), std::move(tensor));
  }
  return file;
}

const HostTensor* SafetensorsFile::find(const std::string& name) const noexcept {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const HostTensor& SafetensorsFile::at(const std::string& name) const {
  const HostTensor* tensor = find(name);
  if (tensor == nullptr) {
    fail(ErrorCode::kNotFound, "{}: there is no tensor {}", name_, quote(name));
  }
  return *tensor;
}

}  // namespace deltacome
