// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_print.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

void append_string_repr(std::string& out, const std::string& text) {
  const bool double_quoted =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = double_quoted ? '"' : '\'';
  out += quote;
  for (const std::string_view bytes : code_points(text)) {
    const char32_t c = decode_code_point(bytes);
    if (c == U'\\' || c == static_cast<char32_t>(quote)) {
      out += '\\';
      out += bytes;
    } else if (c == U'\n') {
      out += "\\n";
    } else if (c == U'\r') {
      out += "\\r";
    } else if (c == U'\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += bytes;
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  out += quote;
}

void append_repr(std::string& out, const Value& value, Budget& budget);

void append_items(std::string& out, const std::vector<Value>& items, Budget& budget) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, items[i], budget);
  }
}

void append_list_repr(std::string& out, const List& list, Budget& budget) {
  switch (list.kind) {
    case SeqKind::kList:
      out += '[';
      append_items(out, list.items, budget);
      out += ']';
      return;
    case SeqKind::kTuple:
      out += '(';
      append_items(out, list.items, budget);
      out += list.items.size() == 1 ? ",)" : ")";
      return;
    case SeqKind::kView:
      out += fmt::format("{}([", list.view);
      append_items(out, list.items, budget);
      out += "])";
      return;
    case SeqKind::kRange:
    case SeqKind::kLazy:
      fault_unsupported(
          "printing a range or a generator is not supported; pipe it through 'list' or 'join'");
  }
}

void append_repr(std::string& out, const Value& value, Budget& budget) {
  budget.step();
  switch (value.type()) {
    case Type::kUndefined:
      out += "Undefined";
      break;
    case Type::kNone:
      out += "None";
      break;
    case Type::kBool:
      out += value.as_bool() ? "True" : "False";
      break;
    case Type::kInt:
      out += std::to_string(value.as_int());
      break;
    case Type::kFloat:
      out += float_repr(value.as_double());
      break;
    case Type::kString:
      append_string_repr(out, value.as_string());
      break;
    case Type::kList:
      append_list_repr(out, value.as_list(), budget);
      break;
    case Type::kDict: {
      out += '{';
      const char* separator = "";
      for (const auto& [key, item] : value.as_dict().entries) {
        out += separator;
        append_repr(out, key, budget);
        out += ": ";
        append_repr(out, item, budget);
        separator = ", ";
      }
      out += '}';
      break;
    }
    case Type::kNamespace:
    case Type::kCallable:
    case Type::kLoop:
      fault_unsupported(fmt::format("printing a '{}' is not supported", type_name(value)));
  }
  budget.text(static_cast<int64_t>(out.size()));
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}
  std::string take() { return std::move(out_); }

  void write(const Value& value, int level) {
    budget_.step();
    switch (value.type()) {
      case Type::kNone:
        out_ += "null";
        break;
      case Type::kBool:
        out_ += value.as_bool() ? "true" : "false";
        break;
      case Type::kInt:
        out_ += std::to_string(value.as_int());
        break;
      case Type::kFloat:
        out_ += number(value.as_double());
        break;
      case Type::kString:
        write_string(value.as_string());
        break;
      case Type::kList:
        if (value.as_list().kind > SeqKind::kTuple) refuse(value);
        write_list(value.as_list().items, level);
        break;
      case Type::kDict:
        write_dict(value.as_dict(), level);
        break;
      default:
        refuse(value);
    }
    budget_.text(static_cast<int64_t>(out_.size()));
  }

 private:
  [[noreturn]] static void refuse(const Value& value) {
    fault(fmt::format("object of type {} is not JSON serializable{}", type_name(value),
                      value.is(Type::kUndefined) ? " (" + value.undefined_what() + ")" : ""));
  }

  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_repr(value);
  }

  void write_list(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    if (!items.empty()) new_line(level);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return less(a->first, b->first, budget_);
      });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write_key(entries[i]->first);
      out_ += style_.key_separator;
      write(entries[i]->second, level + 1);
    }
    if (!entries.empty()) new_line(level);
    out_ += '}';
  }

  void write_key(const Value& key) {
    switch (key.type()) {
      case Type::kString:
        return write_string(key.as_string());
      case Type::kNone:
      case Type::kBool:
      case Type::kInt:
      case Type::kFloat:
        out_ += '"';
        write(key, 0);
        out_ += '"';
        return;
      default:
        fault(
            fmt::format("JSON keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  void new_line(int level) {
    if (!style_.indent) return;
    const auto width = static_cast<int64_t>(style_.indent->size());
    budget_.text(static_cast<int64_t>(out_.size()) + level * width);
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void write_string(const std::string& text) {
    out_ += '"';
    for (const std::string_view bytes : code_points(text)) write_char(bytes);
    out_ += '"';
  }

  void write_char(std::string_view bytes) {
    static constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kLetters = "\"\\nrtbf";
    const size_t at = bytes.size() == 1 ? kPlain.find(bytes[0]) : std::string_view::npos;
    const auto c = static_cast<uint32_t>(decode_code_point(bytes));
    if (at != std::string_view::npos) {
      out_ += '\\';
      out_ += kLetters[at];
    } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7e && c < 0x10000)) {
      // Python escapes U+007F too when it escapes.
      out_ += fmt::format("\\u{:04x}", c);
    } else if (style_.ensure_ascii && c >= 0x10000) {
      const uint32_t v = c - 0x10000;
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (v >> 10), 0xdc00 + (v & 0x3ffu));
    } else {
      out_ += bytes;
    }
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
};

/// Builds Values while nlohmann parses, so that a deep or long text is bounded as it is read.
class JsonReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonReader(std::string what, Budget& budget) : what_(std::move(what)), budget_(budget) {}
  Value take() { return std::move(root_); }

  bool null() override { return add(None{}); }
  bool boolean(bool v) override { return add(v); }
  bool number_integer(int64_t v) override { return add(v); }
  bool number_unsigned(uint64_t v) override {
    if (v > INT64_MAX) fault_unsupported(fmt::format("the integer {} exceeds 64 bits", v));
    return add(static_cast<int64_t>(v));
  }
  bool number_float(double v, const std::string& text) override {
    if (text.find_first_of(".eE") == std::string::npos) {
      fault_unsupported(fmt::format("the integer {} exceeds 64 bits", text));
    }
    return add(v);
  }
  bool string(std::string& v) override { return add(std::move(v)); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override { return push(true); }
  bool start_array(size_t) override { return push(false); }
  bool key(std::string& v) override {
    stack_.back().key = std::move(v);
    return true;
  }
  bool end_object() override { return pop(); }
  bool end_array() override { return pop(); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override {
    fail(ErrorCode::kInvalidArgument, "{} is not valid JSON: {}", what_, e.what());
  }

 private:
  struct Frame {
    bool is_object = false;
    std::string key;
    std::vector<Value> items;
    std::shared_ptr<Dict> dict;
  };

  bool push(bool is_object) {
    if (stack_.size() >= kMaxNesting) {
      fault(fmt::format("values are nested deeper than {}", kMaxNesting));
    }
    stack_.emplace_back();
    stack_.back().is_object = is_object;
    if (is_object) stack_.back().dict = std::make_shared<Dict>();
    return true;
  }
  bool pop() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    return add(frame.is_object ? make_dict(std::move(frame.dict))
                               : make_list(std::move(frame.items)));
  }
  bool add(Value value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (stack_.back().is_object) {
      stack_.back().dict->set(Value(stack_.back().key), std::move(value), budget_);
    } else {
      stack_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::string what_;
  Budget& budget_;
  Value root_;
  std::vector<Frame> stack_;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  std::string out;
  if (text[0] == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string digits(text.substr(0, e));
  std::erase(digits, '.');
  if (exponent < -4 || exponent >= 16) {  // Python's switch to the scientific form
    out += digits[0];
    if (digits.size() > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string to_text(const Value& value, Budget& budget) {
  if (value.is(Type::kString)) return value.as_string();
  if (value.is(Type::kUndefined)) return "";
  return to_repr(value, budget);
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  append_repr(out, value, budget);
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  writer.write(value, 0);
  return writer.take();
}

Value from_json(std::string_view json, const std::string& what, Budget& budget) {
  JsonReader reader(what, budget);
  nlohmann::json::sax_parse(json, &reader);
  return reader.take();
}

void charge_search(std::string_view text, std::string_view pattern, Budget& budget) {
  const auto n = static_cast<int64_t>(text.size());
  const auto m = static_cast<int64_t>(pattern.size());
  budget.step(n / 256 + (n / 1024) * (m / 16));
}

}  // namespace deltacome::jinja
