// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

// Where the Unicode versions of `tokenizers`, utf8proc and PCRE2 differ.

namespace deltacome {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

/// Characters that got their decomposition or combining class after Unicode 9, the version of the
/// normalization in `tokenizers`: there they stay as they are and nothing moves across them.
bool is_inert_in_normalization(char32_t code_point) noexcept;

struct CategoryRange {
  char32_t first;
  char32_t last;
  const char* category;  // two letters, as "Lo"
};

/// Characters that Unicode 15 and 16 added: the patterns of `tokenizers` know their general
/// category, PCRE2 10.42 does not. Ascending.
std::span<const CategoryRange> added_categories() noexcept;

/// The lower case of a character that Unicode 15 to 17 added, else the character itself.
char32_t added_lower_case(char32_t code_point) noexcept;

}  // namespace deltacome
