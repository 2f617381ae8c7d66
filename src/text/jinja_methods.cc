// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

constexpr std::array<std::string_view, 25> kStringMethods{
    "strip",    "lstrip",  "rstrip",       "split",       "rsplit",     "splitlines", "startswith",
    "endswith", "upper",   "lower",        "title",       "capitalize", "replace",    "join",
    "format",   "find",    "rfind",        "count",       "isdigit",    "isalpha",    "isspace",
    "isupper",  "islower", "removeprefix", "removesuffix"};
constexpr std::array<std::string_view, 22> kMissingStringMethods{
    "casefold",   "center",   "encode",    "expandtabs",   "format_map", "index",
    "isalnum",    "isascii",  "isdecimal", "isidentifier", "isnumeric",  "isprintable",
    "istitle",    "ljust",    "maketrans", "partition",    "rindex",     "rjust",
    "rpartition", "swapcase", "translate", "zfill"};
constexpr std::array<std::string_view, 4> kDictMethods{"get", "items", "keys", "values"};
constexpr std::array<std::string_view, 2> kMissingDictMethods{"copy", "fromkeys"};
constexpr std::array<std::string_view, 2> kListMethods{"count", "index"};
constexpr std::array<std::string_view, 1> kMissingListMethods{"copy"};
constexpr std::array<std::string_view, 13> kMutating{
    "append", "clear",   "extend",     "insert", "pop",       "remove",  "reverse",
    "sort",   "popitem", "setdefault", "update", "__class__", "__init__"};

template <size_t n>
bool has(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

const std::string& string_argument(const Value& value) {
  if (!value.is(Type::kString)) {
    fault(fmt::format("a string is needed, not '{}'", type_name(value)));
  }
  return value.as_string();
}

Value strip(const std::string& name, const std::string& self, const Args& args) {
  const Bound bound(name, args, {"chars"});
  const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
  const std::string_view text = bound.given(0)
                                    ? strip_any(self, string_argument(*bound.get(0)), side)
                                    : strip_space(self, side);
  return Value(std::string(text));
}

Value to_list(const std::vector<std::string_view>& parts, Budget& budget) {
  budget.bytes(static_cast<int64_t>(parts.size() * 4 * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.emplace_back(std::string(part));
  return make_list(std::move(items));
}

Value split(const std::string& name, const std::string& self, const Args& args, Budget& budget) {
  const Bound bound(name, args, {"sep", "maxsplit"});
  const bool right = name == "rsplit";
  const int64_t max_splits = bound.integer(1, -1);
  if (!bound.given(0)) return to_list(split_space(self, max_splits, right), budget);
  const std::string& separator = string_argument(*bound.get(0));
  if (separator.empty()) fault("empty separator");
  charge_search(self, separator, budget);
  return to_list(split_on(self, separator, max_splits, right), budget);
}

bool has_affix(const std::string& self, const Value& affix, bool at_start) {
  if (affix.is(Type::kList) && affix.as_list().kind == SeqKind::kTuple) {
    const auto& options = affix.as_list().items;
    return std::any_of(options.begin(), options.end(), [&](const Value& option) {
      const std::string& text = string_argument(option);
      return at_start ? self.starts_with(text) : self.ends_with(text);
    });
  }
  const std::string& text = string_argument(affix);
  return at_start ? self.starts_with(text) : self.ends_with(text);
}

Value find(const std::string& name, const std::string& self, const Args& args, Budget& budget) {
  const Bound bound(name, args, {"sub"});
  const std::string& part = bound.text(0);
  charge_search(self, part, budget);
  if (name == "count") {
    if (part.empty()) return count_code_points(self) + 1;
    return static_cast<int64_t>(split_on(self, part, -1, false).size()) - 1;
  }
  const size_t at = name == "find" ? self.find(part) : self.rfind(part);
  if (at == std::string::npos) return int64_t{-1};
  return count_code_points(std::string_view(self).substr(0, at));
}

bool is_cased(const std::string& self, bool upper) {
  bool found = false;
  for (const std::string_view bytes : code_points(self)) {
    const char32_t c = decode_code_point(bytes);
    if (upper ? is_lower(c) : is_upper(c)) return false;
    found = found || (upper ? is_upper(c) : is_lower(c));
  }
  return found;
}

Value classify(const std::string& name, const std::string& self) {
  if (name == "isupper" || name == "islower") return is_cased(self, name == "isupper");
  const auto predicate = name == "isdigit"   ? is_digit
                         : name == "isalpha" ? is_alphabetic
                                             : is_space;
  const std::vector<std::string_view> points = code_points(self);
  return !points.empty() && std::all_of(points.begin(), points.end(), [&](std::string_view c) {
    return predicate(decode_code_point(c));
  });
}

/// The argument that a replacement field of str.format names.
const Value& format_argument(const std::string& field, size_t& automatic, const Args& args) {
  const bool is_index =
      std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (is_index && field.size() < 9) {
    const size_t i = field.empty() ? automatic++ : std::stoul(field);
    if (i >= args.plain.size()) fault(fmt::format("format() has no argument {}", i));
    return args.plain[i];
  }
  for (const auto& [name, value] : args.named) {
    if (name == field) return value;
  }
  if (field.find_first_of(":!.[") != std::string::npos) {
    fault_unsupported(
        fmt::format("the construct '{{{}}}' in format() is not supported; supported "
                    "are {{}}, {{0}} and {{name}}",
                    field));
  }
  fault(fmt::format("format() has no argument '{}'", field));
}

Value format_braces(const std::string& self, const Args& args, Budget& budget) {
  std::string out;
  size_t automatic = 0;
  for (size_t i = 0; i < self.size(); ++i) {
    const char c = self[i];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (i + 1 < self.size() && self[i + 1] == c) {
      out += c;
      ++i;
      continue;
    }
    const size_t close = c == '{' ? self.find('}', i) : std::string::npos;
    if (close == std::string::npos) fault("single brace in a format string");
    out += to_text(format_argument(self.substr(i + 1, close - i - 1), automatic, args), budget);
    budget.text(static_cast<int64_t>(out.size()));
    i = close;
  }
  return Value(std::move(out));
}

Value join(const std::string& self, const Args& args, Budget& budget) {
  const Bound bound("join", args, {"iterable"});
  std::vector<std::string> parts;
  for (const Value& item : iterate_or_fault(bound.required(0), budget)) {
    parts.push_back(string_argument(item));
  }
  return Value(join_texts(self, parts, budget));
}

Value call_string_method(const std::string& name, const std::string& self, const Args& args,
                         Budget& budget) {
  budget.step(static_cast<int64_t>(self.size()) / 64);
  if (name.ends_with("strip")) return strip(name, self, args);
  if (name == "split" || name == "rsplit") return split(name, self, args, budget);
  if (name == "find" || name == "rfind" || name == "count") return find(name, self, args, budget);
  if (name == "format") return format_braces(self, args, budget);
  if (name == "join") return join(self, args, budget);
  if (name == "splitlines") {
    const Bound bound(name, args, {"keepends"});
    return to_list(split_lines(self, bound.flag(0, false)), budget);
  }
  if (name == "startswith" || name == "endswith") {
    const Bound bound(name, args, {"prefix"});
    return has_affix(self, bound.required(0), name == "startswith");
  }
  if (name == "replace") {
    const Bound bound(name, args, {"old", "new", "count"});
    return Value(replace_text(self, bound.text(0), bound.text(1), bound.integer(2, -1), budget));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const Bound bound(name, args, {"affix"});
    const std::string& affix = bound.text(0);
    const bool prefix = name == "removeprefix";
    const bool matches = prefix ? self.starts_with(affix) : self.ends_with(affix);
    if (!matches) return Value(self);
    return Value(self.substr(prefix ? affix.size() : 0, self.size() - affix.size()));
  }
  const Bound none(name, args, {});
  if (name == "upper") return Value(to_upper(self));
  if (name == "lower") return Value(to_lower(self));
  if (name == "title") return Value(to_title(self));
  if (name == "capitalize") return Value(capitalize(self));
  return classify(name, self);
}

Value call_dict_method(const std::string& name, const Value& self, const Args& args,
                       Budget& budget) {
  const Dict& dict = self.as_dict();
  if (name == "get") {
    const Bound bound(name, args, {"key", "default"});
    const Value* found = dict.find(bound.required(0), budget);
    return found ? *found : bound.get(1) ? *bound.get(1) : Value(None{});
  }
  const Bound none(name, args, {});
  budget.bytes(static_cast<int64_t>(dict.entries.size() * 4 * sizeof(Value)));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    items.push_back(name == "keys"     ? key
                    : name == "values" ? value
                                       : make_list({key, value}, SeqKind::kTuple));
  }
  return make_view(std::move(items), name == "keys"     ? "dict_keys"
                                     : name == "values" ? "dict_values"
                                                        : "dict_items");
}

Value call_list_method(const std::string& name, const Value& self, const Args& args,
                       Budget& budget) {
  const Bound bound(name, args, {"value"});
  const std::vector<Value>& items = self.as_list().items;
  int64_t count = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!equals(items[i], bound.required(0), budget)) continue;
    if (name == "index") return static_cast<int64_t>(i);
    ++count;
  }
  if (name == "index") fault("the value is not in the list");
  return count;
}

Value call_loop_method(const std::string& name, Loop& loop, const Args& args, Budget& budget) {
  if (!args.named.empty()) fault(fmt::format("loop.{}() takes no named arguments", name));
  if (name == "cycle") {
    if (args.plain.empty()) fault("no items for cycling given");
    return args.plain[loop.index % args.plain.size()];
  }
  const bool same =
      loop.last_changed && loop.last_changed->size() == args.plain.size() &&
      std::equal(args.plain.begin(), args.plain.end(), loop.last_changed->begin(),
                 [&](const Value& a, const Value& b) { return equals(a, b, budget); });
  if (!same) loop.last_changed = args.plain;
  return !same;
}

}  // namespace

Value find_method(const Value& self, const std::string& name) {
  bool known = false;
  bool missing = false;
  bool mutating = false;
  if (self.is(Type::kString)) {
    known = has(kStringMethods, name);
    missing = has(kMissingStringMethods, name);
  } else if (self.is(Type::kDict)) {
    known = has(kDictMethods, name);
    missing = has(kMissingDictMethods, name);
    mutating = name == "clear" || name == "pop" || name == "popitem" || name == "setdefault" ||
               name == "update";
  } else if (self.is(Type::kList) && self.as_list().kind <= SeqKind::kRange) {
    known = has(kListMethods, name);
    missing = self.as_list().kind == SeqKind::kList && has(kMissingListMethods, name);
    mutating = self.as_list().kind == SeqKind::kList && has(kMutating, name);
  }
  if (known) return make_method(self, name);
  if (missing) {
    fault_unsupported(
        fmt::format("the construct '.{}()' is not supported; supported are {}", name,
                    self.is(Type::kString) ? fmt::format("{}", fmt::join(kStringMethods, ", "))
                    : self.is(Type::kDict) ? fmt::format("{}", fmt::join(kDictMethods, ", "))
                                           : fmt::format("{}", fmt::join(kListMethods, ", "))));
  }
  if (mutating) {  // an undefined in jinja2 too, whose call is the error
    return Value::undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe", name, type_name(self)));
  }
  return Value::undefined(fmt::format("'{}' object has no attribute '{}'", type_name(self), name));
}

Value call_method(const Callable& method, const Args& args, Budget& budget) {
  const std::string& name = method.name;
  const bool takes_names =
      name == "format" || name == "split" || name == "rsplit" || name == "splitlines";
  if (!args.named.empty() && !takes_names) {
    fault(fmt::format("{}() takes no keyword arguments", name));
  }
  switch (method.self.type()) {
    case Type::kString:
      return call_string_method(method.name, method.self.as_string(), args, budget);
    case Type::kDict:
      return call_dict_method(method.name, method.self, args, budget);
    case Type::kLoop:
      return call_loop_method(method.name, method.self.as_loop(), args, budget);
    default:
      return call_list_method(method.name, method.self, args, budget);
  }
}

std::string format_percent(const std::string& format, const std::vector<Value>& values,
                           Budget& budget) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const char c = ++i < format.size() ? format[i] : '\0';
    if (c == '%') {
      out += c;
      continue;
    }
    if (c != 's' && c != 'r' && c != 'd' && c != 'i') {
      fault_unsupported(fmt::format(
          "the construct '%{}' in a format is not supported; supported are %s, %r, %d, %i and %%",
          c == '\0' ? ' ' : c));
    }
    if (next == values.size()) fault("not enough arguments for format string");
    const Value& value = values[next++];
    if ((c == 'd' || c == 'i') && !value.is_number()) {
      fault(fmt::format("%{} format: a number is needed, not '{}'", c, type_name(value)));
    }
    out += c == 's'   ? to_text(value, budget)
           : c == 'r' ? to_repr(value, budget)
                      : std::to_string(value.is(Type::kFloat) ? static_cast<int64_t>(std::clamp(
                                                                    value.as_double(), -9e18, 9e18))
                                                              : value.as_int());
    budget.text(static_cast<int64_t>(out.size()));
  }
  if (next < values.size() && !(values.size() == 1 && values[0].is(Type::kDict))) {
    fault("not all arguments converted during string formatting");
  }
  return out;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t max_count, Budget& budget) {
  std::vector<std::string> parts;
  charge_search(text, from, budget);
  if (from.empty()) {  // between all characters
    parts.emplace_back();
    for (const std::string_view c : code_points(text)) {
      if (max_count >= 0 && static_cast<int64_t>(parts.size()) >= max_count) {
        parts.emplace_back(text.substr(static_cast<size_t>(c.data() - text.data())));
        text = {};
        break;
      }
      parts.emplace_back(c);
    }
    if (max_count == 0) return std::string(parts.back());
    if (max_count < 0 || static_cast<int64_t>(parts.size()) <= max_count) parts.emplace_back();
    return join_texts(to, parts, budget);
  }
  const auto views = split_on(text, from, max_count, false);
  budget.bytes(static_cast<int64_t>(views.size() * sizeof(std::string)));
  for (const std::string_view part : views) parts.emplace_back(part);
  return join_texts(to, parts, budget);
}

std::string join_texts(std::string_view separator, const std::vector<std::string>& parts,
                       Budget& budget) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    budget.text(static_cast<int64_t>(out.size() + separator.size() + parts[i].size()));
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

}  // namespace deltacome::jinja
