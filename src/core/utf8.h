// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace deltacome {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

/// What stands at the start of a byte string.
struct Utf8Unit {
  enum class Kind : uint8_t {
    kCharacter,  // one well-formed character
    kInvalid,    // a maximal subpart of an ill-formed sequence (Unicode 15, §3.9, U+FFFD practice)
    kIncomplete,  // all the bytes there are: a proper prefix of a character
  };
  Kind kind;
  int n_bytes;
};

/// Classifies the start of `bytes`, which must not be empty.
Utf8Unit next_utf8_unit(std::string_view bytes) noexcept;

bool is_valid_utf8(std::string_view bytes) noexcept;

/// `bytes` with each maximal ill-formed subpart replaced by U+FFFD, as Python's
/// bytes.decode("utf-8", errors="replace") and Rust's String::from_utf8_lossy do.
std::string replace_invalid_utf8(std::string_view bytes);

/// Bytes of the character that `lead` begins; for well-formed text only.
inline int utf8_size(char lead) noexcept {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The character at text[at]; `text` must be well-formed and `at` on a boundary.
char32_t code_point_at(std::string_view text, size_t at) noexcept;

/// Appends a Unicode scalar value.
void append_utf8(char32_t code_point, std::string& out);

/// The property White_Space, which is what \s means in `tokenizers`.
bool is_white_space(char32_t code_point) noexcept;

}  // namespace deltacome
