// SPDX-License-Identifier: Apache-2.0
#include "text/token_bytes.h"

#include "core/check.h"

namespace deltacome {
namespace {

[[noreturn]] void unknown(const char* step) {
  fail(ErrorCode::kUnsupported,
       "constraints are not supported with this tokenizer: its decoder has a {}", step);
}

}  // namespace

TokenBytes::TokenBytes(const std::vector<DecoderStep>& steps) : steps_(steps) {
  bool fused = false;  // later steps see the text as a whole
  for (const DecoderStep& step : steps) {
    if (std::holds_alternative<FuseDecoder>(step)) {
      fused = true;
    } else if (const auto* strip = std::get_if<StripDecoder>(&step)) {
      if (!fused || strip->content != " " || strip->start > 1 || strip->stop != 0)
        unknown("Strip step of another kind than one space at the start of the text");
      drops_first_space_ |= strip->start == 1;
    } else if (const auto* metaspace = std::get_if<MetaspaceDecoder>(&step)) {
      drops_first_space_ |= metaspace->drops_first;
    } else if (std::holds_alternative<JoinDecoder>(step)) {
      fail(ErrorCode::kUnsupported,
           "constraints are not supported with this tokenizer: it has no decoder");
    } else if (fused && !std::holds_alternative<ByteLevelDecoder>(step)) {
      unknown("step after Fuse that is not supported there");
    }
  }
}

std::string TokenBytes::of(const std::string& token) const {
  std::string text = token;
  for (const DecoderStep& step : steps_) {
    if (const auto* replace = std::get_if<ReplaceDecoder>(&step)) {
      text = replace->pattern.replace_all(text, replace->content);
    } else if (const auto* metaspace = std::get_if<MetaspaceDecoder>(&step)) {
      for (size_t at = 0; (at = text.find(metaspace->replacement, at)) != std::string::npos; ++at)
        text.replace(at, metaspace->replacement.size(), 1, ' ');
    } else if (std::holds_alternative<ByteLevelDecoder>(step)) {
      text = byte_level_bytes(text);
    } else if (std::holds_alternative<ByteFallbackDecoder>(step)) {
      if (const std::optional<char> byte = fallback_byte(text)) return std::string(1, *byte);
    }
  }
  return text;
}

}  // namespace deltacome
