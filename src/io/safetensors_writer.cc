// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <set>
#include <utility>

#include "core/check.h"
#include "io/files.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/safetensors_layout.h"

namespace deltacome {
namespace {

/// A JSON string with its quotes. Throws kInvalidArgument if `text` is not UTF-8.
std::string json_string(const std::string& text, const std::string& file) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kInvalidArgument, "cannot write {}: {} is not UTF-8", file, quote(text));
  }
}

/// The JSON header, padded with spaces; total_bytes becomes the size of the data section.
std::string header_json(const std::string& file, const std::vector<TensorSpec>& specs,
                        const std::map<std::string, std::string>& metadata, int64_t& total_bytes) {
  std::string text = "{";
  if (!metadata.empty()) {
    for (const auto& [key, value] : metadata) {
      text += fmt::format("{}{}:{}", text.size() == 1 ? "\"__metadata__\":{" : ",",
                          json_string(key, file), json_string(value, file));
    }
    text += "}";
  }
  total_bytes = 0;
  std::set<std::string_view> names;
  for (const TensorSpec& spec : specs) {
    if (!is_plain_name(spec.name) || spec.name == kMetadataName) {
      fail(ErrorCode::kInvalidArgument, "cannot write {}: {} is not a tensor name", file,
           quote(spec.name));
    }
    if (!names.insert(spec.name).second) {
      fail(ErrorCode::kInvalidArgument, "cannot write {}: two tensors are named {}", file,
           quote(spec.name));
    }
    const auto bytes = checked_bytes(spec.shape, spec.dtype);
    const int64_t begin = total_bytes;
    if (!bytes || __builtin_add_overflow(total_bytes, *bytes, &total_bytes)) {
      fail(ErrorCode::kInvalidArgument, "cannot write {}: the shape {} of tensor {} overflows",
           file, to_string(spec.shape), quote(spec.name));
    }
    text += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        text.size() == 1 ? "" : ",", json_string(spec.name, file),
                        dtype_name(spec.dtype), fmt::join(spec.shape, ","), begin, total_bytes);
  }
  text += "}";
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  if (text.size() > kMaxHeaderBytes) {
    fail(ErrorCode::kInvalidArgument, "cannot write {}: a header of {} bytes, expected at most {}",
         file, text.size(), kMaxHeaderBytes);
  }
  return text;
}

}  // namespace

struct SafetensorsWriter::State {
  AtomicFile file;
  std::string name;
  int64_t promised_bytes;
  int64_t written_bytes = 0;
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                                     std::map<std::string, std::string> metadata) {
  int64_t promised_bytes = 0;
  const std::string header = header_json(path.string(), specs, metadata, promised_bytes);
  std::array<std::byte, 8> size{};
  for (size_t i = 0; i < size.size(); ++i) {
    size[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xffu);
  }
  state_.reset(
      new State{.file = AtomicFile(path), .name = path.string(), .promised_bytes = promised_bytes});
  state_->file.append(size);
  state_->file.append(std::as_bytes(std::span(header)));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  const auto n = static_cast<int64_t>(bytes.size());
  if (n > state_->promised_bytes - state_->written_bytes) {
    fail(ErrorCode::kInternal, "{}: {} bytes of tensor data, expected {}", state_->name,
         state_->written_bytes + n, state_->promised_bytes);
  }
  state_->file.append(bytes);
  state_->written_bytes += n;
}

void SafetensorsWriter::finish() {
  if (state_->written_bytes != state_->promised_bytes) {
    fail(ErrorCode::kInternal, "{}: {} bytes of tensor data, expected {}", state_->name,
         state_->written_bytes, state_->promised_bytes);
  }
  state_->file.commit();
}

}  // namespace deltacome
