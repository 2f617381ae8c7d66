// SPDX-License-Identifier: Apache-2.0
#include "text/unicode_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/utf8.h"

namespace deltacome {
namespace {

size_t sequence_bytes(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

size_t last_begin(std::string_view text) {  // where the last code point of a non-empty text begins
  size_t i = text.size() - 1;
  while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xc0u) == 0x80u) --i;
  return i;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

template <class Map>
std::string map_case(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (const std::string_view bytes : code_points(text)) map(out, decode_code_point(bytes));
  return out;
}

void append_upper(std::string& out, char32_t c) {
  if (c == U'\u00df') {
    out += "SS";
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_toupper(static_cast<int32_t>(c))), out);
  }
}

void append_title(std::string& out, char32_t c) {
  if (c == U'\u00df') {
    out += "Ss";
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_totitle(static_cast<int32_t>(c))), out);
  }
}

void append_lower(std::string& out, char32_t c) {
  if (c == U'\u0130') {
    out += "i\u0307";
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c))), out);
  }
}

template <class Matches>
std::string_view strip_if(std::string_view text, Side side, Matches matches) {
  while (side != Side::kRight && !text.empty()) {
    const std::string_view first =
        text.substr(0, sequence_bytes(static_cast<unsigned char>(text[0])));
    if (!matches(first)) break;
    text.remove_prefix(first.size());
  }
  while (side != Side::kLeft && !text.empty()) {
    const size_t begin = last_begin(text);
    if (!matches(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

bool is_space_bytes(std::string_view bytes) {
  return is_space(decode_code_point(bytes));
}

}  // namespace

int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u; });
}

std::vector<std::string_view> code_points(std::string_view text) {
  std::vector<std::string_view> out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t n = sequence_bytes(static_cast<unsigned char>(text[i]));
    out.push_back(text.substr(i, n));
    i += n;
  }
  return out;
}

char32_t decode_code_point(std::string_view bytes) {
  utf8proc_int32_t c = 0;
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()),
                                  static_cast<utf8proc_ssize_t>(bytes.size()), &c);
  return n > 0 ? static_cast<char32_t>(c) : U'\ufffd';
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

bool is_alphabetic(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_digit(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_printable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == U' ';
    default:
      return true;
  }
}

bool is_upper(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU;
}
bool is_lower(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL;
}

std::string to_upper(std::string_view text) {
  return map_case(text, append_upper);
}
std::string to_lower(std::string_view text) {
  return map_case(text, append_lower);
}

std::string to_title(std::string_view text) {
  bool in_word = false;
  return map_case(text, [&](std::string& out, char32_t c) {
    in_word ? append_lower(out, c) : append_title(out, c);
    const auto kind = category(c);  // a word continues after cased letters only
    in_word = kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL ||
              kind == UTF8PROC_CATEGORY_LT;
  });
}

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_case(text, [&](std::string& out, char32_t c) {
    first ? append_title(out, c) : append_lower(out, c);
    first = false;
  });
}

std::string_view strip_space(std::string_view text, Side side) {
  return strip_if(text, side, is_space_bytes);
}

std::string_view strip_any(std::string_view text, std::string_view set, Side side) {
  const std::vector<std::string_view> members = code_points(set);
  return strip_if(text, side, [&](std::string_view c) {
    return std::find(members.begin(), members.end(), c) != members.end();
  });
}

std::vector<std::string_view> split_space(std::string_view text, int64_t max_splits, bool right) {
  std::vector<std::string_view> parts;
  const Side outer = right ? Side::kRight : Side::kLeft;
  text = strip_space(text, outer);
  while (!text.empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      parts.push_back(strip_space(text, right ? Side::kRight : Side::kLeft));
      break;
    }
    size_t cut = right ? text.size() : 0;
    if (right) {
      while (cut > 0) {
        const size_t begin = last_begin(text.substr(0, cut));
        if (is_space_bytes(text.substr(begin))) break;
        cut = begin;
      }
      parts.push_back(text.substr(cut));
      text = text.substr(0, cut);
    } else {
      while (cut < text.size() && !is_space_bytes(text.substr(cut))) {
        cut += sequence_bytes(static_cast<unsigned char>(text[cut]));
      }
      parts.push_back(text.substr(0, cut));
      text.remove_prefix(cut);
    }
    text = strip_space(text, outer);
  }
  if (right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view separator,
                                       int64_t max_splits, bool right) {
  std::vector<std::string_view> parts;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t at = right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    if (right) {
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.push_back(text);
  if (right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t n = sequence_bytes(static_cast<unsigned char>(text[i]));
    const char32_t c = decode_code_point(text.substr(i));
    const bool ends = (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    size_t next = i + n;
    if (ends) {
      if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
      lines.push_back(text.substr(begin, (keep_ends ? next : i) - begin));
      begin = next;
    }
    i = next;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace deltacome
