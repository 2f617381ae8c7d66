// SPDX-License-Identifier: Apache-2.0
// Tokenizes strings for tests/e2e/tokenizer_equality.py.
// Usage: tokenize_lines TOKENIZER_JSON. Each line of standard input is the hexadecimal form of the
// bytes of a string, or "ids" and numbers; each line of standard output is a JSON object.

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/utf8.h"
#include "text/tokenizer.h"

namespace {

using deltacome::StreamDecoder;
using deltacome::TokenId;
using deltacome::Tokenizer;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

/// The text that a stream gives; "partial" in its place if a push gave less than whole characters.
std::string stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    if (!deltacome::is_valid_utf8(piece)) return "partial";
    text += piece;
  }
  return text + decoder.finish();
}

nlohmann::json decode(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  nlohmann::json out;
  for (const bool skip : {false, true}) {
    const char* suffix = skip ? "_skip" : "";
    out[std::string("text") + suffix] = tokenizer.decode(ids, skip);
    out[std::string("stream") + suffix] = stream(tokenizer, ids, skip);
  }
  return out;
}

int run(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string json(std::istreambuf_iterator<char>(file), {});
  const Tokenizer tokenizer = Tokenizer::parse(json, path);
  double seconds = 0;
  size_t n_bytes = 0;
  std::string line;
  while (std::getline(std::cin, line)) {
    nlohmann::json out;
    if (line.starts_with("ids")) {
      std::istringstream numbers(line.substr(3));
      out = decode(tokenizer, {std::istream_iterator<TokenId>(numbers), {}});
    } else {
      const std::string text = from_hex(line);
      const auto start = std::chrono::steady_clock::now();
      const std::vector<TokenId> plain = tokenizer.encode(text, false);
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      n_bytes += text.size();
      const std::vector<TokenId> special = tokenizer.encode(text, true);
      out = decode(tokenizer, special);
      out["ids"] = plain;
      out["ids_special"] = special;
    }
    std::cout << out.dump() << '\n';
  }
  std::cerr << "encoded " << n_bytes << " bytes, "
            << static_cast<double>(n_bytes) / 1e6 / std::max(seconds, 1e-9) << " MB/s\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines TOKENIZER_JSON\n";
    return 2;
  }
  try {
    return run(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << "tokenize_lines: " << error.what() << '\n';
    return 1;
  }
}
