// SPDX-License-Identifier: Apache-2.0
#include "eval/answer.h"

#include <cctype>
#include <cstdlib>

namespace deltacome {
namespace {

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

/// The last number in `text` without its commas; "" if there is none.
std::string last_number(const std::string& text) {
  std::string last;
  for (size_t i = 0; i < text.size();) {
    const bool signed_number = text[i] == '-' && i + 1 < text.size() && is_digit(text[i + 1]);
    if (!is_digit(text[i]) && !signed_number) {
      ++i;
      continue;
    }
    last.clear();
    for (bool point = false; i < text.size(); ++i) {
      const bool more = i + 1 < text.size() && is_digit(text[i + 1]);
      if (text[i] == ',' && more) continue;
      if (text[i] == '.' && more && !point) {
        point = true;
      } else if (!is_digit(text[i]) && !(text[i] == '-' && last.empty())) {
        break;
      }
      last += text[i];
    }
  }
  return last;
}

bool is_number(const std::string& text, double* value) {
  char* end = nullptr;
  *value = std::strtod(text.c_str(), &end);
  return !text.empty() && end == text.c_str() + text.size();
}

}  // namespace

std::string answer_of(const std::string& completion) {
  const size_t mark = completion.rfind("####");
  return mark == std::string::npos ? trimmed(completion) : last_number(completion.substr(mark + 4));
}

bool gives_answer(const std::string& completion, const std::string& answer) {
  const std::string got = answer_of(completion), want = answer_of(answer);
  double a = 0, b = 0;
  if (is_number(got, &a) && is_number(want, &b)) return a == b;
  return !want.empty() && got == want;
}

}  // namespace deltacome
