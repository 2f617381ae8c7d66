// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome {

/// Text operations with the semantics of Python's str. All take valid UTF-8; positions and counts
/// are in code points unless a name says bytes.
int64_t count_code_points(std::string_view text);
std::vector<std::string_view> code_points(std::string_view text);  // each as its bytes
char32_t decode_code_point(std::string_view bytes);                // the first one

bool is_space(char32_t c);       // str.isspace
bool is_alphabetic(char32_t c);  // str.isalpha
bool is_digit(char32_t c);       // decimal digits only; str.isdigit has superscripts too
bool is_printable(char32_t c);   // str.isprintable
bool is_upper(char32_t c);
bool is_lower(char32_t c);

/// Case by simple mapping and the sharp s; Python's other multi-letter cases are left alone.
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);    // str.title
std::string capitalize(std::string_view text);  // str.capitalize

enum class Side : uint8_t { kBoth, kLeft, kRight };
std::string_view strip_space(std::string_view text, Side side);
/// Strips code points that occur in `set`.
std::string_view strip_any(std::string_view text, std::string_view set, Side side);
std::vector<std::string_view> split_space(std::string_view text, int64_t max_splits, bool right);
/// `separator` is not empty; max_splits < 0: no limit.
std::vector<std::string_view> split_on(std::string_view text, std::string_view separator,
                                       int64_t max_splits, bool right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace deltacome
