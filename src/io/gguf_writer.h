// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "io/files.h"

namespace deltacome {

/// Element types of a GGUF tensor; the values are those of the file.
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBf16 = 30 };

inline constexpr int64_t kQ8Block = 32;  // weights that share a scale in kQ8_0

/// Bytes of `values` in a type. kQ8_0: blocks of 32, an fp16 scale d = max|x| / 127 and 32 bytes
/// round(x / d), half away from zero; rows must be multiples of 32.
std::vector<std::byte> gguf_bytes(std::span<const float> values, GgufType type);
int64_t gguf_byte_size(int64_t n_values, GgufType type);

/// Streams one GGUF file, version 3: magic "GGUF", u32 version, u64 tensors, u64 pairs of metadata,
/// the pairs, a description of each tensor, then the tensors, each at a multiple of 32 bytes; all
/// little-endian. First all metadata and tensors are announced, then the bytes of each tensor are
/// given in that order. The file appears whole in finish(); an abandoned writer leaves nothing.
/// Format: docs/gguf.md of ggml.
class GgufWriter {
 public:
  explicit GgufWriter(std::filesystem::path path) : path_(std::move(path)) {}

  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add_u32(std::string_view key, int64_t value);  // throws kUnsupported if it does not fit
  void add_f32(std::string_view key, double value);
  void add_bool(std::string_view key, bool value);
  void add(std::string_view key, std::span<const std::string> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const int32_t> values);

  /// `shape` slowest extent first, as everywhere here; the file has them the other way round.
  void add_tensor(std::string_view name, const Shape& shape, GgufType type);

  /// The next tensor's bytes. Throws kIo, kInternal for another number of bytes than announced.
  void append(std::span<const std::byte> bytes);
  /// Throws kInternal if tensors are missing, kIo. Returns the file's bytes.
  int64_t finish();

 private:
  void begin();
  void write(std::span<const std::byte> bytes);

  std::filesystem::path path_;
  std::optional<AtomicFile> file_;
  std::vector<std::byte> pairs_, descriptions_;
  std::vector<int64_t> sizes_;  // of tensors
  uint64_t n_pairs_ = 0;
  int64_t data_bytes_ = 0;  // announced, with padding
  size_t next_ = 0;
  int64_t written_ = 0;
};

}  // namespace deltacome
