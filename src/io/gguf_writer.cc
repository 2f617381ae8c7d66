// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/dtype.h"

namespace deltacome {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they are");

constexpr int64_t kAlignment = 32;
constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kVersion = 3;
constexpr int64_t kQ8BlockBytes = 2 + kQ8Block;

/// Types of metadata values.
enum class Value : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

template <class T>
void put(std::vector<std::byte>& out, T value) {
  const size_t at = out.size();
  out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
}

void put_text(std::vector<std::byte>& out, std::string_view text) {
  put(out, static_cast<uint64_t>(text.size()));
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

int64_t padding(int64_t bytes) {
  return (kAlignment - bytes % kAlignment) % kAlignment;
}

void put_q8_block(const float* x, std::byte* out) {
  float largest = 0;
  for (int64_t i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::abs(x[i]));
  const float scale = largest / 127;
  const float inverse = scale > 0 ? 1 / scale : 0;
  const uint16_t stored = float_to_f16(scale);
  std::memcpy(out, &stored, sizeof stored);
  for (int64_t i = 0; i < kQ8Block; ++i)
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(x[i] * inverse)));
}

}  // namespace

int64_t gguf_byte_size(int64_t n_values, GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 4 * n_values;
    case GgufType::kF16:
    case GgufType::kBf16:
      return 2 * n_values;
    case GgufType::kQ8_0:
      DELTACOME_CHECK(n_values % kQ8Block == 0);
      return n_values / kQ8Block * kQ8BlockBytes;
  }
  DELTACOME_CHECK(false);
  return 0;
}

std::vector<std::byte> gguf_bytes(std::span<const float> values, GgufType type) {
  std::vector<std::byte> out(
      static_cast<size_t>(gguf_byte_size(static_cast<int64_t>(values.size()), type)));
  if (type == GgufType::kQ8_0) {
    std::byte* to = out.data();
    for (size_t i = 0; i < values.size(); i += kQ8Block, to += kQ8BlockBytes)
      put_q8_block(values.data() + i, to);
    return out;
  }
  const DType dtype = type == GgufType::kF32   ? DType::kF32
                      : type == GgufType::kF16 ? DType::kF16
                                               : DType::kBf16;
  convert_from_float(values, dtype, out.data());
  return out;
}

void GgufWriter::begin() {
  std::vector<std::byte> head;
  put(head, kMagic);
  put(head, kVersion);
  put(head, static_cast<uint64_t>(sizes_.size()));
  put(head, n_pairs_);
  file_.emplace(path_);
  write(head);
  write(pairs_);
  write(descriptions_);
  write(std::vector<std::byte>(static_cast<size_t>(padding(written_))));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  file_->append(bytes);
  written_ += static_cast<int64_t>(bytes.size());
}

namespace {

void put_key(std::vector<std::byte>& out, uint64_t& n_pairs, std::string_view key, Value type) {
  put_text(out, key);
  put(out, type);
  ++n_pairs;
}

void put_array_head(std::vector<std::byte>& out, Value type, size_t n) {
  put(out, type);
  put(out, static_cast<uint64_t>(n));
}

}  // namespace

void GgufWriter::add(std::string_view key, std::string_view value) {
  put_key(pairs_, n_pairs_, key, Value::kString);
  put_text(pairs_, value);
}

void GgufWriter::add_u32(std::string_view key, int64_t value) {
  if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
    fail(ErrorCode::kUnsupported, "{}: {} is {}, expected 32 bits", path_.string(), key, value);
  }
  put_key(pairs_, n_pairs_, key, Value::kU32);
  put(pairs_, static_cast<uint32_t>(value));
}

void GgufWriter::add_f32(std::string_view key, double value) {
  put_key(pairs_, n_pairs_, key, Value::kF32);
  put(pairs_, static_cast<float>(value));
}

void GgufWriter::add_bool(std::string_view key, bool value) {
  put_key(pairs_, n_pairs_, key, Value::kBool);
  put(pairs_, static_cast<uint8_t>(value));
}

void GgufWriter::add(std::string_view key, std::span<const std::string> values) {
  put_key(pairs_, n_pairs_, key, Value::kArray);
  put_array_head(pairs_, Value::kString, values.size());
  for (const std::string& value : values) put_text(pairs_, value);
}

void GgufWriter::add(std::string_view key, std::span<const float> values) {
  put_key(pairs_, n_pairs_, key, Value::kArray);
  put_array_head(pairs_, Value::kF32, values.size());
  for (const float value : values) put(pairs_, value);
}

void GgufWriter::add(std::string_view key, std::span<const int32_t> values) {
  put_key(pairs_, n_pairs_, key, Value::kArray);
  put_array_head(pairs_, Value::kI32, values.size());
  for (const int32_t value : values) put(pairs_, value);
}

void GgufWriter::add_tensor(std::string_view name, const Shape& shape, GgufType type) {
  DELTACOME_CHECK(!file_);
  put_text(descriptions_, name);
  put(descriptions_, static_cast<uint32_t>(shape.size()));
  for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent)
    put(descriptions_, static_cast<uint64_t>(*extent));
  put(descriptions_, type);
  put(descriptions_, static_cast<uint64_t>(data_bytes_));
  sizes_.push_back(gguf_byte_size(element_count(shape), type));
  data_bytes_ += sizes_.back() + padding(sizes_.back());
}

void GgufWriter::append(std::span<const std::byte> bytes) {
  if (!file_) begin();
  DELTACOME_CHECK(next_ < sizes_.size() && static_cast<int64_t>(bytes.size()) == sizes_[next_]);
  write(bytes);
  write(std::vector<std::byte>(static_cast<size_t>(padding(sizes_[next_]))));
  ++next_;
}

int64_t GgufWriter::finish() {
  if (!file_) begin();
  DELTACOME_CHECK(next_ == sizes_.size());
  file_->commit();
  return written_;
}

}  // namespace deltacome
