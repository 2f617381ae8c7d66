// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "grammar/compile.h"
#include "grammar/token_masks.h"

namespace deltacome::grammar::testing {

/// Whether `text` is one of the automaton's.
inline bool matches(const Automaton& automaton, std::string_view text) {
  Reader reader(automaton);
  Reader::Place place = reader.enter(automaton.start(), kBottom);
  for (const char c : text) {
    const Position position = reader.save(place);  // as between tokens
    place = reader.step(reader.load(position), static_cast<uint8_t>(c));
    if (place.dead()) return false;
  }
  return place.may_end;
}

/// All bytes, then pieces: of JSON across its structure, of characters, and random ones.
inline std::vector<std::optional<std::string>> adversarial_tokens(uint32_t seed) {
  std::vector<std::optional<std::string>> out;
  for (int b = 0; b < 256; ++b) out.emplace_back(std::string(1, static_cast<char>(b)));
  for (const char* piece : {"\"",       "\":",      "\": ",
                            "\":\"",    "\",",      "\", \"",
                            "\",\"",    "{\"",      "\"}",
                            "\"}}",     "\"]}",     "},{\"",
                            "[[",       "]]",       "[{\"",
                            "}]",       "}]}",      "{}",
                            "[]",       "[],",      "\\",
                            "\\n",      "\\\"",     "\\\\\"",
                            "\\u",      "\\u00",    "\\ud83d",
                            "\\udc",    "u12",      "0",
                            "00",       "000",      "12",
                            "-",        "-1",       ".5",
                            ".0",       "e1",       "E+",
                            "1,",       "1}",       "1]",
                            "true",     "fals",     "e,",
                            "null",     "nul",      "l}",
                            " ",        "  ",       "    ",
                            "\n",       "\n  ",     ",\n    \"",
                            "{\n\"",    "\n}",      "\t",
                            "\xC3",     "\xC3\xA9", "\xA9",
                            "\xE2\x82", "\xAC\"",   "\xE2\x82\xAC",
                            "\xF0\x9F", "\x98\x80", "\xF0\x9F\x98\x80",
                            "a\xE2",    "name",     "\"name",
                            "me\":",    "ab",       "abc\"",
                            "x\",\"y",  "</tool",   "<tool_call>",
                            "é\":",     "\xED\xA0", "\x80\x80",
                            "\xF4\x90", "a",        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})
    out.emplace_back(piece);
  std::mt19937 rng(seed);
  const std::string_view kAlphabet = "{}[]\":,\\ \n019.-eEatrufnls\xC3\xA9\xE2\x82\xAC";
  std::uniform_int_distribution<size_t> length(2, 6), letter(0, kAlphabet.size() - 1);
  for (int i = 0; i < 400; ++i) {
    std::string token;
    for (size_t n = length(rng); n > 0; --n) token += kAlphabet[letter(rng)];
    out.emplace_back(std::move(token));
  }
  out.emplace_back();    // a special token
  out.emplace_back("");  // and one that stands for nothing
  out.emplace_back(std::string(300, 'a'));
  return out;
}

inline std::vector<TokenId> ids_of(std::span<const uint32_t> mask) {
  std::vector<TokenId> out;
  for (size_t i = 0; i < 32 * mask.size(); ++i)
    if (has_bit(mask, static_cast<TokenId>(i))) out.push_back(static_cast<TokenId>(i));
  return out;
}

}  // namespace deltacome::grammar::testing
