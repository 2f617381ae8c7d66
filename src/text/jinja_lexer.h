// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome::jinja {

enum class TokenType : uint8_t {
  kData,           // text between tags
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,  // text is the unescaped value
  kInt,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenType type;
  std::string text;
  int line;

  bool is(TokenType t, std::string_view s) const { return type == t && text == s; }
};

/// Tokens of a template under trim_blocks, lstrip_blocks and keep_trailing_newline=False; comments
/// and raw tags are resolved. `source` is valid UTF-8. Throws Error(kCorrupt) for a syntax error.
std::vector<Token> tokenize(std::string_view source);

}  // namespace deltacome::jinja
