// SPDX-License-Identifier: Apache-2.0
#include "image/data_uri.h"

#include <array>
#include <cstdint>

#include "core/check.h"
#include "image/decode.h"
#include "io/files.h"

namespace deltacome {
namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<int8_t, 256> kValues = [] {
  std::array<int8_t, 256> out{};
  out.fill(-1);
  for (size_t i = 0; i < kDigits.size(); ++i)
    out[static_cast<unsigned char>(kDigits[i])] = static_cast<int8_t>(i);
  return out;
}();

std::string decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) {
    fail(ErrorCode::kInvalidArgument,
         "picture: its base64 has {} characters, expected a multiple of 4", text.size());
  }
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  text.remove_suffix(padding);
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  uint32_t bits = 0;
  int n_bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const int value = kValues[static_cast<unsigned char>(text[i])];
    if (value < 0) {
      fail(ErrorCode::kInvalidArgument, "picture: character {} of its base64 is no base64 digit",
           i + 1);
    }
    bits = bits << 6 | static_cast<uint32_t>(value);
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    out.push_back(static_cast<char>(bits >> n_bits & 0xff));
  }
  return out;
}

}  // namespace

std::string decode_data_uri(std::string_view uri) {
  constexpr std::string_view kBegin = "data:image/", kBase64 = ";base64";
  const size_t comma = uri.find(',');
  if (!uri.starts_with(kBegin) || comma == std::string_view::npos ||
      !uri.substr(0, comma).ends_with(kBase64)) {
    fail(ErrorCode::kInvalidArgument,
         "picture: the URI begins with \"{}\", expected data:image/<type>;base64,<base64>",
         std::string(uri.substr(0, 40)));
  }
  return decode_base64(uri.substr(comma + 1));
}

std::string read_named_picture(const std::string& name, const std::filesystem::path& directory) {
  if (name.starts_with("data:")) return decode_data_uri(name);
  return read_text_file(directory / name, ImageLimits{}.max_bytes);
}

}  // namespace deltacome
