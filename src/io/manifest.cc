// SPDX-License-Identifier: Apache-2.0
#include "io/manifest.h"

#include <algorithm>

#include "core/check.h"

namespace deltacome {
namespace {

constexpr size_t kDigits = 64;

bool is_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != '\\'; });
}

}  // namespace

std::string format_manifest(const Manifest& manifest) {
  std::string text;
  for (const auto& [name, hash] : manifest) {
    DELTACOME_CHECK(hash.size() == kDigits && is_plain_name(name));
    text += fmt::format("{}  {}\n", hash, name);
  }
  return text;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  Manifest manifest;
  std::string last;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const bool well_formed = end != std::string_view::npos && line.size() > kDigits + 2 &&
                             std::all_of(line.begin(), line.begin() + kDigits, is_digit) &&
                             line.substr(kDigits, 2) == "  " &&
                             is_plain_name(line.substr(kDigits + 2));
    if (!well_formed) {
      fail(ErrorCode::kCorrupt, "{}: line {} is not \"<sha256>  <file name>\"", where, number);
    }
    std::string name(line.substr(kDigits + 2));
    if (name <= last) fail(ErrorCode::kCorrupt, "{}: line {} is out of order", where, number);
    manifest.emplace(name, line.substr(0, kDigits));
    last = std::move(name);
    text.remove_prefix(end + 1);
  }
  return manifest;
}

}  // namespace deltacome
