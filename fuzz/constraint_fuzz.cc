// SPDX-License-Identifier: Apache-2.0
// The first byte chooses a JSON schema, a regular expression, choices or the parameters of a tool;
// the rest is its text. Only deltacome::Error may escape; a text along the masks never gets stuck,
// and masks are what every token gives by itself.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "deltacome/error.h"
#include "grammar/compile.h"
#include "grammar/token_masks.h"

namespace {

using namespace deltacome::grammar;

Automaton compile(uint8_t kind, std::string_view text) {
  switch (kind % 4) {
    case 0:
      return compile_json_schema(text);
    case 1:
      return compile_regex(text);
    case 2: {
      std::vector<std::string> choices;
      for (size_t at = 0; at <= text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        choices.emplace_back(text.substr(at, end - at));
        at = end + 1;
      }
      return compile_choice(choices);
    }
    default:
      return compile_tool_calls({.tools = {{"f", std::string(text)}, {"g", ""}},
                                 .begin = "<tool_call>",
                                 .end = "</tool_call>",
                                 .separator = "\n",
                                 .max_calls = 2});
  }
}

std::shared_ptr<const TokenSet> tokens() {
  static const auto kTokens = [] {
    std::vector<std::optional<std::string>> out;
    for (int b = 0; b < 256; ++b) out.emplace_back(std::string(1, static_cast<char>(b)));
    for (const char* piece :
         {"\"",       "\": ",     "\",\"", "\"}", "]}",      "{\"",      "[[", "[\"",
          "\\u00",    "\\\"",     "12",    ".5",  "e1",      "true",     ", ", "\n  ",
          "\xC3\xA9", "\xE2\x82", "abc",   "  ",  "a\",\"b", "aaaaaaaa", "/"})
      out.emplace_back(piece);
    return std::make_shared<const TokenSet>(std::move(out), true);
  }();
  return kTokens;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto masks = std::make_shared<TokenMasks>(
        std::make_shared<const Automaton>(compile(data[0], text)), tokens());
    uint64_t choice = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; ++i) choice = (choice ^ data[i]) * 0x100000001b3u;
    Matcher matcher(masks);
    for (int i = 0; i < 24 && !matcher.must_end(); ++i) {
      const auto allowed = matcher.allowed();
      if (Mask(allowed.begin(), allowed.end()) !=
          masks->allowed_one_by_one(matcher.position(), i == 0))
        std::abort();
      std::vector<TokenId> ids;
      for (size_t id = 0; id < tokens()->size(); ++id)
        if (has_bit(allowed, static_cast<TokenId>(id))) ids.push_back(static_cast<TokenId>(id));
      if (ids.empty()) std::abort();
      choice = choice * 6364136223846793005u + 1442695040888963407u;
      if (!matcher.accept(ids[(choice >> 33) % ids.size()])) std::abort();
    }
  } catch (const deltacome::Error&) {
  }
  return 0;
}
