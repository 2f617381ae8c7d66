// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

Value filter_trim(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("trim", args, {"chars"});
  const std::string text = to_text(input, budget);
  return Value(std::string(bound.given(0) ? strip_any(text, bound.text(0), Side::kBoth)
                                          : strip_space(text, Side::kBoth)));
}

Value filter_length(const Value& input, const Args& args, Budget&) {
  const Bound none("length", args, {});
  const auto n = length(input);
  if (!n) fault(fmt::format("object of type '{}' has no len()", type_name(input)));
  return *n;
}

Value filter_tojson(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{
      .ensure_ascii = bound.flag(0, false), .indent = {}, .sort_keys = bound.flag(3, false)};
  if (bound.given(1)) {
    const Value& indent = *bound.get(1);
    if (indent.is_integral()) {
      const int64_t width = std::max<int64_t>(indent.as_int(), 0);
      budget.text(width);
      style.indent = std::string(static_cast<size_t>(width), ' ');
    } else {
      style.indent = bound.text(1);
    }
    style.item_separator.assign(1, ',');
  }
  if (bound.given(2)) {
    const std::vector<Value> pair = iterate_or_fault(*bound.get(2), budget);
    if (pair.size() != 2 || !pair[0].is(Type::kString) || !pair[1].is(Type::kString)) {
      fault("tojson needs two strings as separators");
    }
    style.item_separator = pair[0].as_string();
    style.key_separator = pair[1].as_string();
  }
  return Value(to_json(input, style, budget));
}

Value filter_default(const Value& input, const Args& args, Budget&) {
  const Bound bound("default", args, {"default_value", "boolean"});
  const bool replace = input.is(Type::kUndefined) || (bound.flag(1, false) && !truthy(input));
  if (!replace) return input;
  return bound.get(0) ? *bound.get(0) : Value(std::string());
}

template <std::string (*map)(std::string_view)>
Value filter_case(const Value& input, const Args& args, Budget& budget) {
  const Bound none("a filter of letter case", args, {});
  return Value(map(to_text(input, budget)));
}

std::string title_words(std::string_view text) {
  static constexpr std::string_view kBreaks = "-({[<";
  std::string out;
  std::string word;
  const auto flush = [&] {
    out += capitalize(word);
    word.clear();
  };
  for (const std::string_view c : code_points(text)) {
    if (is_space(decode_code_point(c)) || kBreaks.find(c) != std::string_view::npos) {
      flush();
      out += c;
    } else {
      word += c;
    }
  }
  flush();
  return out;
}

Value filter_replace(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("replace", args, {"old", "new", "count"});
  return Value(replace_text(to_text(input, budget), to_text(bound.required(0), budget),
                            to_text(bound.required(1), budget), bound.integer(2, -1), budget));
}

Value filter_string(const Value& input, const Args& args, Budget& budget) {
  const Bound none("string", args, {});
  return Value(to_text(input, budget));
}

/// A number at the whole of `text`, as Python's int() and float() read one.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  text = strip_space(text, Side::kBoth);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_digit_at = [&](size_t k) {
      return k < text.size() && text[k] >= '0' && text[k] <= '9';
    };
    if (text[i] == '_' && i > 0 && is_digit_at(i - 1) && is_digit_at(i + 1)) continue;
    digits += text[i];
  }
  std::string_view rest = digits;
  if (rest.starts_with('+') && !rest.starts_with("+-")) rest.remove_prefix(1);
  T value{};
  const auto result = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (result.ptr != rest.data() + rest.size() || rest.empty()) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    if constexpr (std::is_integral_v<T>) {
      fault_unsupported("integers beyond 64 bits are not supported");
    } else {
      return std::strtod(std::string(rest).c_str(), nullptr);
    }
  }
  return result.ec == std::errc() ? std::optional<T>(value) : std::nullopt;
}

std::optional<int64_t> truncate(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::fabs(value) >= 0x1p63) {
    fault_unsupported("integers beyond 64 bits are not supported");
  }
  return static_cast<int64_t>(value);
}

Value filter_int(const Value& input, const Args& args, Budget&) {
  const Bound bound("int", args, {"default", "base"});
  if (input.is(Type::kUndefined)) fault_undefined(input);
  if (bound.integer(1, 10) != 10) fault_unsupported("a base of 'int' is not supported");
  if (input.is_integral()) return input.as_int();
  std::optional<int64_t> result;
  if (input.is(Type::kFloat)) {
    if (std::isinf(input.as_double())) fault("cannot convert infinity to integer");
    result = truncate(input.as_double());
  } else if (input.is(Type::kString)) {
    result = parse_number<int64_t>(input.as_string());
    if (!result) {
      const auto as_float = parse_number<double>(input.as_string());
      if (as_float) result = truncate(*as_float);
    }
  }
  if (result) return *result;
  return bound.get(0) ? *bound.get(0) : Value(int64_t{0});
}

Value filter_float(const Value& input, const Args& args, Budget&) {
  const Bound bound("float", args, {"default"});
  if (input.is(Type::kUndefined)) fault_undefined(input);
  if (input.is_number()) return input.as_double();
  if (input.is(Type::kString)) {
    const auto number = parse_number<double>(input.as_string());
    if (number) return *number;
  }
  return bound.get(0) ? *bound.get(0) : Value(0.0);
}

Value filter_abs(const Value& input, const Args& args, Budget&) {
  const Bound none("abs", args, {});
  if (input.is(Type::kUndefined)) fault_undefined(input);
  if (input.is(Type::kFloat)) return std::fabs(input.as_double());
  if (!input.is_integral()) {
    fault(fmt::format("bad operand type for abs(): '{}'", type_name(input)));
  }
  return input.as_int() < 0 ? multiply_exactly(input.as_int(), -1) : input.as_int();
}

/// Python's round() of a float: exact, ties to even in decimal, via the exact decimal digits.
double round_decimal(double value, int64_t places) {
  if (!std::isfinite(value) || places > 300) return value;
  if (places < -300) return std::copysign(0.0, value);
  if (places < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-places));
    return std::nearbyint(value / unit) * unit;
  }
  return std::strtod(fmt::format("{:.{}f}", value, places).c_str(), nullptr);
}

Value filter_round(const Value& input, const Args& args, Budget&) {
  const Bound bound("round", args, {"precision", "method"});
  if (input.is(Type::kUndefined)) fault_undefined(input);
  if (!input.is_number()) {
    fault(fmt::format("type '{}' cannot be rounded", type_name(input)));
  }
  const int64_t places = bound.integer(0, 0);
  const std::string method = bound.get(1) ? bound.text(1) : "common";
  if (method == "common") {
    if (!input.is_integral()) return round_decimal(input.as_double(), places);
    if (places < 0) fault_unsupported("rounding integers to tens is not supported");
    return input.as_int();
  }
  if (method != "ceil" && method != "floor") fault("method must be common, ceil or floor");
  if (places < 0 || places > 18) fault_unsupported("such a precision of 'round' is not supported");
  const double unit = std::pow(10.0, static_cast<double>(places));
  const double scaled = input.as_double() * unit;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit;
}

Value filter_indent(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("indent", args, {"width", "first", "blank"});
  const Value* width = bound.get(0);
  std::string margin;
  if (width && width->is(Type::kString)) {
    margin = width->as_string();
  } else {
    const int64_t n = std::max<int64_t>(bound.integer(0, 4), 0);
    budget.text(n);
    margin.assign(static_cast<size_t>(n), ' ');
  }
  if (!input.is(Type::kString)) {
    input.is(Type::kUndefined) ? fault_undefined(input) : fault("indent needs a string");
  }
  const std::string text = input.as_string() + "\n";  // so that an empty text has a line
  std::string out;
  bool first = true;
  for (const std::string_view line : split_lines(text, false)) {
    const bool margin_here = first ? bound.flag(1, false) : bound.flag(2, false) || !line.empty();
    if (!first) out += '\n';
    if (margin_here) out += margin;
    out += line;
    budget.text(static_cast<int64_t>(out.size()));
    first = false;
  }
  return Value(std::move(out));
}

Value filter_format(const Value& input, const Args& args, Budget& budget) {
  if (!args.named.empty()) fault_unsupported("named arguments of 'format' are not supported");
  return Value(format_percent(to_text(input, budget), args.plain, budget));
}

using FilterFunction = Value (*)(const Value& input, const Args& args, Budget& budget);

struct Filter {
  std::string_view name;
  FilterFunction function;
};

constexpr std::array<Filter, 19> kScalarFilters{{
    {"trim", filter_trim},
    {"length", filter_length},
    {"count", filter_length},
    {"tojson", filter_tojson},
    {"default", filter_default},
    {"d", filter_default},
    {"upper", filter_case<to_upper>},
    {"lower", filter_case<to_lower>},
    {"title", filter_case<title_words>},
    {"capitalize", filter_case<capitalize>},
    {"replace", filter_replace},
    {"string", filter_string},
    {"safe", filter_string},
    {"int", filter_int},
    {"float", filter_float},
    {"abs", filter_abs},
    {"round", filter_round},
    {"indent", filter_indent},
    {"format", filter_format},
}};

FilterFunction find_filter(std::string_view name) {
  for (const Filter& filter : kScalarFilters) {
    if (filter.name == name) return filter.function;
  }
  return nullptr;
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr || is_sequence_filter(name);
}

std::string filter_names() {
  std::string names;
  for (const Filter& filter : kScalarFilters) names += fmt::format("{}, ", filter.name);
  return names + sequence_filter_names();
}

Value apply_filter(std::string_view name, const Value& input, const Args& args, Budget& budget) {
  budget.step();
  const FilterFunction function = find_filter(name);
  return function ? function(input, args, budget)
                  : apply_sequence_filter(name, input, args, budget);
}

}  // namespace deltacome::jinja
