// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

[[noreturn]] void fault_overflow() {
  fault_unsupported("integers beyond 64 bits are not supported");
}

[[noreturn]] void fault_operands(std::string_view op, const Value& a, const Value& b) {
  fault(fmt::format("unsupported operand types for {}: '{}' and '{}'", op, type_name(a),
                    type_name(b)));
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fault("0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent & 1) result = multiply_exactly(result, base);
    exponent >>= 1;
    if (exponent > 0) base = multiply_exactly(base, base);
  }
  return result;
}

Value float_power(double base, double exponent) {
  if (base == 0.0 && exponent < 0) fault("0.0 cannot be raised to a negative power");
  if (base < 0.0 && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    fault_unsupported("complex numbers are not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    fault("the result of ** is too large");
  }
  return result;
}

Value integer_operation(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) fault_overflow();
    return result;
  }
  if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) fault_overflow();
    return result;
  }
  if (op == "*") return multiply_exactly(a, b);
  if (op == "**") return integer_power(a, b);
  if (b == 0) fault("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) return op == "%" ? Value(int64_t{0}) : Value(multiply_exactly(a, -1));
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);  // Python rounds down
  return op == "%" ? remainder + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
}

Value float_operation(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return float_power(a, b);
  if (b == 0.0) fault("float division by zero");
  if (op == "/") return a / b;
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0.0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1.0;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == "%") return remainder;
  if (quotient == 0.0) return std::copysign(0.0, a / b);
  const double rounded = std::floor(quotient);
  return quotient - rounded > 0.5 ? rounded + 1.0 : rounded;
}

Value repeat(const Value& sequence, int64_t times, Budget& budget) {
  if (times < 0) times = 0;
  if (sequence.is(Type::kString)) {
    const std::string& unit = sequence.as_string();
    if (unit.empty()) times = 0;
    const auto size = static_cast<int64_t>(unit.size());
    if (size > 0 && times > budget.limits().text_bytes / size) budget.text(INT64_MAX);
    std::string text;
    text.reserve(static_cast<size_t>(size * times));
    for (int64_t i = 0; i < times; ++i) text += unit;
    return Value(std::move(text));
  }
  const std::vector<Value>& unit = sequence.as_list().items;
  const auto bytes = static_cast<int64_t>(unit.size() * sizeof(Value));
  if (bytes > 0 && times > budget.limits().bytes / bytes) budget.bytes(budget.limits().bytes + 1);
  budget.bytes(bytes * times);
  std::vector<Value> items;
  for (int64_t i = 0; bytes > 0 && i < times; ++i) {
    items.insert(items.end(), unit.begin(), unit.end());
  }
  return make_list(std::move(items), sequence.as_list().kind);
}

bool is_repeatable(const Value& value) {
  return value.is(Type::kString) ||
         (value.is(Type::kList) && value.as_list().kind <= SeqKind::kTuple);
}

Value concatenate(const Value& left, const Value& right, Budget& budget) {
  if (left.is(Type::kString) && right.is(Type::kString)) {
    budget.text(static_cast<int64_t>(left.as_string().size() + right.as_string().size()));
    return Value(left.as_string() + right.as_string());
  }
  if (!left.is(Type::kList) || !right.is(Type::kList) ||
      left.as_list().kind != right.as_list().kind || left.as_list().kind > SeqKind::kTuple) {
    fault_operands("+", left, right);
  }
  std::vector<Value> items = left.as_list().items;
  const std::vector<Value>& more = right.as_list().items;
  items.insert(items.end(), more.begin(), more.end());
  return make_list(std::move(items), left.as_list().kind);
}

Value loop_attribute(const Value& value, const std::string& name) {
  Loop& loop = value.as_loop();
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "first") return index == 0;
  if (name == "last") return !loop.has_next();
  if (name == "length") return loop.length();
  if (name == "revindex") return loop.length() - index;
  if (name == "revindex0") return loop.length() - index - 1;
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "cycle" || name == "changed") return make_method(value, name);
  if (name == "previtem") {
    if (index == 0) return Value::undefined("there is no previous item");
    return loop.items[loop.index - 1];
  }
  if (name == "nextitem") {
    if (!loop.has_next()) return Value::undefined("there is no next item");
    return loop.items[loop.index + 1];
  }
  return Value::undefined(fmt::format("'loop' has no attribute '{}'", name));
}

/// What object[key] finds, if anything.
std::optional<Value> subscript(const Value& object, const Value& key, Budget& budget) {
  if (object.is(Type::kDict)) {
    const bool hashable =
        !key.is(Type::kDict) && (!key.is(Type::kList) || key.as_list().kind == SeqKind::kTuple);
    const Value* found = hashable ? object.as_dict().find(key, budget) : nullptr;
    return found ? std::optional<Value>(*found) : std::nullopt;
  }
  const bool indexed = object.is(Type::kString) ||
                       (object.is(Type::kList) && object.as_list().kind <= SeqKind::kRange);
  if (!indexed || !key.is_integral()) return std::nullopt;
  const int64_t n = *length(object);
  int64_t i = key.as_int();
  if (i < 0) i += n;
  if (i < 0 || i >= n) return std::nullopt;
  if (object.is(Type::kList)) return object.as_list().items[static_cast<size_t>(i)];
  const std::string& text = object.as_string();
  if (static_cast<size_t>(n) == text.size()) {  // ASCII
    return Value(std::string(1, text[static_cast<size_t>(i)]));
  }
  budget.step(n / 16);
  return Value(std::string(code_points(text)[static_cast<size_t>(i)]));
}

}  // namespace

int64_t multiply_exactly(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) fault_overflow();
  return result;
}

Value binary_operation(std::string_view op, const Value& left, const Value& right, Budget& budget) {
  if (op == "%" && left.is(Type::kString)) {
    const bool is_tuple = right.is(Type::kList) && right.as_list().kind == SeqKind::kTuple;
    return Value(format_percent(
        left.as_string(), is_tuple ? right.as_list().items : std::vector<Value>{right}, budget));
  }
  if (left.is(Type::kUndefined)) fault_undefined(left);
  if (right.is(Type::kUndefined)) fault_undefined(right);
  if (left.is_integral() && right.is_integral()) {
    return integer_operation(op, left.as_int(), right.as_int());
  }
  if (left.is_number() && right.is_number()) {
    return float_operation(op, left.as_double(), right.as_double());
  }
  if (op == "+") return concatenate(left, right, budget);
  if (op == "*" && is_repeatable(left) && right.is_integral()) {
    return repeat(left, right.as_int(), budget);
  }
  if (op == "*" && is_repeatable(right) && left.is_integral()) {
    return repeat(right, left.as_int(), budget);
  }
  fault_operands(op, left, right);
}

Value negate(const Value& operand) {
  if (operand.is(Type::kUndefined)) fault_undefined(operand);
  if (operand.is_integral()) return multiply_exactly(operand.as_int(), -1);
  if (operand.is(Type::kFloat)) return -operand.as_double();
  fault(fmt::format("bad operand type for unary -: '{}'", type_name(operand)));
}

Value unary_plus(const Value& operand) {
  if (operand.is(Type::kUndefined)) fault_undefined(operand);
  if (operand.is_integral()) return operand.as_int();
  if (operand.is(Type::kFloat)) return operand;
  fault(fmt::format("bad operand type for unary +: '{}'", type_name(operand)));
}

Value get_attribute(const Value& object, const std::string& name, Budget& budget) {
  if (object.is(Type::kUndefined)) fault_undefined(object);
  if (object.is(Type::kLoop)) return loop_attribute(object, name);
  if (object.is(Type::kNamespace)) {
    const Value* found = object.as_namespace().attributes.find(name);
    if (found) return *found;
    return Value::undefined(fmt::format("the namespace has no attribute '{}'", name));
  }
  Value method = find_method(object, name);
  if (!method.is(Type::kUndefined)) return method;
  if (object.is(Type::kDict)) {
    const Value* found = object.as_dict().find(Value(name), budget);
    if (found) return *found;
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", name));
  }
  return method;
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  if (object.is(Type::kUndefined)) fault_undefined(object);
  if (auto found = subscript(object, key, budget)) return *std::move(found);
  if (key.is(Type::kString) && !object.is(Type::kDict)) {
    return get_attribute(object, key.as_string(), budget);
  }
  if (key.is(Type::kString)) {
    const Value method = find_method(object, key.as_string());
    if (!method.is(Type::kUndefined)) return method;
  }
  return Value::undefined(
      fmt::format("'{}' object has no element {}", type_name(object), to_repr(key, budget)));
}

Value get_slice(const std::vector<Value>& operands, Budget& budget) {
  const Value& object = operands[0];
  if (object.is(Type::kUndefined)) fault_undefined(object);
  const bool sliced = object.is(Type::kString) ||
                      (object.is(Type::kList) && object.as_list().kind <= SeqKind::kRange);
  if (!sliced) fault(fmt::format("'{}' object cannot be sliced", type_name(object)));
  for (size_t i = 1; i < 4; ++i) {
    if (!operands[i].is_integral() && !operands[i].is(Type::kNone)) {
      fault(fmt::format("slice bounds must be integers, not '{}'", type_name(operands[i])));
    }
  }
  const int64_t n = *length(object);
  const int64_t step = operands[3].is(Type::kNone) ? 1 : operands[3].as_int();
  if (step == 0) fault("a slice needs a step that is not zero");
  const auto bound = [&](const Value& v, int64_t otherwise) {
    if (v.is(Type::kNone)) return otherwise;
    int64_t i = v.as_int();
    if (i < 0) i = i < -n ? -1 : i + n;
    return step > 0 ? std::clamp<int64_t>(i, 0, n) : std::clamp<int64_t>(i, -1, n - 1);
  };
  const int64_t begin = bound(operands[1], step > 0 ? 0 : n - 1);
  const int64_t end = bound(operands[2], step > 0 ? n : -1);
  const std::vector<std::string_view> points =
      object.is(Type::kString) ? code_points(object.as_string()) : std::vector<std::string_view>{};
  budget.step(static_cast<int64_t>(points.size()) / 16);
  std::string text;
  std::vector<Value> items;
  __int128 i = begin;  // i + step may leave 64 bits
  for (; step > 0 ? i < end : i > end; i += step) {
    const auto at = static_cast<size_t>(i);
    if (object.is(Type::kString)) {
      text += points[at];
    } else {
      items.push_back(object.as_list().items[at]);
    }
  }
  if (object.is(Type::kString)) return Value(std::move(text));
  return make_list(std::move(items), object.as_list().kind);
}

}  // namespace deltacome::jinja
