// SPDX-License-Identifier: Apache-2.0
// The input is a tokenizer.json and, after a byte 0xFF, a text for it. Only deltacome::Error may
// escape, and what is decoded in pieces must be what is decoded at once.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/utf8.h"
#include "deltacome/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\xFF');
  const std::string_view json = input.substr(0, cut);
  const std::string_view text =
      cut == std::string_view::npos ? "Hello  \xF0\x9F\x98\x80 a1 'S\n" : input.substr(cut + 1);
  try {
    const auto tokenizer = deltacome::Tokenizer::parse(json, "fuzz");
    std::vector<deltacome::TokenId> ids = tokenizer.encode(text, true);
    for (deltacome::TokenId id = -1; id < 64; ++id) ids.push_back(id);
    for (const bool skip : {false, true}) {
      deltacome::StreamDecoder stream(tokenizer, skip);
      std::string pieces;
      for (const deltacome::TokenId id : ids) {
        const std::string piece = stream.push(id);
        if (!deltacome::is_valid_utf8(piece)) std::abort();
        pieces += piece;
      }
      if (pieces + stream.finish() != tokenizer.decode(ids, skip)) std::abort();
    }
  } catch (const deltacome::Error&) {
  }
  return 0;
}
