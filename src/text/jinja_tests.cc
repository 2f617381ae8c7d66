// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

using TestFunction = bool (*)(const Value& value, const Value& operand, Budget& budget);

struct Test {
  std::string_view name;
  bool takes_operand;
  TestFunction function;
};

bool is_cased(const Value& value, bool upper, Budget& budget) {
  auto method = std::make_shared<Callable>();
  method->name = upper ? "isupper" : "islower";
  method->self = Value(to_text(value, budget));
  return truthy(call_method(*method, {}, budget));
}

bool divides(const Value& value, const Value& by, Budget& budget) {
  return equals(binary_operation("%", value, by, budget), Value(int64_t{0}), budget);
}

bool at_most(const Value& a, const Value& b, Budget& budget) {
  return less(a, b, budget) || equals(a, b, budget);
}

bool is_sequence(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kString:
    case Type::kDict:
      return true;
    case Type::kList:
      return value.as_list().kind <= SeqKind::kRange;
    default:
      return false;
  }
}

bool is_same(const Value& a, const Value& b, Budget& budget) {
  if (a.type() != b.type()) return false;
  return a.identity() ? a.identity() == b.identity() : equals(a, b, budget);
}

constexpr auto kEqual = [](const Value& a, const Value& b, Budget& g) { return equals(a, b, g); };
constexpr auto kUnequal = [](const Value& a, const Value& b, Budget& g) {
  return !equals(a, b, g);
};
constexpr auto kLess = [](const Value& a, const Value& b, Budget& g) { return less(a, b, g); };
constexpr auto kGreater = [](const Value& a, const Value& b, Budget& g) { return less(b, a, g); };
constexpr auto kAtLeast = [](const Value& a, const Value& b, Budget& g) {
  return at_most(b, a, g);
};

#define DELTACOME_JINJA_TEST(body)                               \
  [](const Value& value, const Value&, Budget& budget) -> bool { \
    static_cast<void>(budget);                                   \
    return body;                                                 \
  }

constexpr std::array<Test, 38> kTests{{
    {"defined", false, DELTACOME_JINJA_TEST(!value.is(Type::kUndefined))},
    {"undefined", false, DELTACOME_JINJA_TEST(value.is(Type::kUndefined))},
    {"none", false, DELTACOME_JINJA_TEST(value.is(Type::kNone))},
    {"boolean", false, DELTACOME_JINJA_TEST(value.is(Type::kBool))},
    {"true", false, DELTACOME_JINJA_TEST(value.is(Type::kBool) && value.as_bool())},
    {"false", false, DELTACOME_JINJA_TEST(value.is(Type::kBool) && !value.as_bool())},
    {"integer", false, DELTACOME_JINJA_TEST(value.is(Type::kInt))},
    {"float", false, DELTACOME_JINJA_TEST(value.is(Type::kFloat))},
    {"number", false, DELTACOME_JINJA_TEST(value.is_number())},
    {"string", false, DELTACOME_JINJA_TEST(value.is(Type::kString))},
    {"mapping", false, DELTACOME_JINJA_TEST(value.is(Type::kDict))},
    {"sequence", false, DELTACOME_JINJA_TEST(is_sequence(value))},
    {"iterable", false,
     DELTACOME_JINJA_TEST(value.is(Type::kUndefined) || value.is(Type::kString) ||
                          value.is(Type::kList) || value.is(Type::kDict) || value.is(Type::kLoop))},
    {"callable", false,
     DELTACOME_JINJA_TEST(value.is(Type::kCallable) || value.is(Type::kUndefined) ||
                          value.is(Type::kLoop))},
    {"lower", false, DELTACOME_JINJA_TEST(is_cased(value, false, budget))},
    {"upper", false, DELTACOME_JINJA_TEST(is_cased(value, true, budget))},
    {"even", false, DELTACOME_JINJA_TEST(divides(value, Value(int64_t{2}), budget))},
    {"odd", false,
     DELTACOME_JINJA_TEST(equals(binary_operation("%", value, Value(int64_t{2}), budget),
                                 Value(int64_t{1}), budget))},
    {"divisibleby", true, divides},
    {"sameas", true, is_same},
    {"in", true,
     [](const Value& a, const Value& b, Budget& budget) { return contains(b, a, budget); }},
    {"eq", true, kEqual},
    {"equalto", true, kEqual},
    {"==", true, kEqual},
    {"ne", true, kUnequal},
    {"!=", true, kUnequal},
    {"lt", true, kLess},
    {"lessthan", true, kLess},
    {"<", true, kLess},
    {"gt", true, kGreater},
    {"greaterthan", true, kGreater},
    {">", true, kGreater},
    {"le", true, at_most},
    {"<=", true, at_most},
    {"ge", true, kAtLeast},
    {">=", true, kAtLeast},
    {"filter", false,
     DELTACOME_JINJA_TEST(value.is(Type::kString) && is_filter(value.as_string()))},
    {"test", false, DELTACOME_JINJA_TEST(value.is(Type::kString) && is_test(value.as_string()))},
}};

#undef DELTACOME_JINJA_TEST

const Test* find_test(std::string_view name) {
  for (const Test& test : kTests) {
    if (test.name == name) return &test;
  }
  return nullptr;
}

}  // namespace

bool is_test(std::string_view name) {
  return find_test(name) != nullptr;
}

std::string test_names() {
  std::string names;
  for (const Test& test : kTests)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", test.name);
  return names;
}

bool apply_test(std::string_view name, const Value& input, const Args& args, Budget& budget) {
  const Test* test = find_test(name);
  if (test == nullptr) {  // a name that was computed: select("...")
    fault_unsupported(fmt::format("the construct 'is {}' is not supported; supported are {}", name,
                                  test_names()));
  }
  const size_t wanted = test->takes_operand ? 1 : 0;
  if (args.plain.size() + args.named.size() != wanted) {
    fault(fmt::format("the test '{}' takes {} arguments, got {}", name, wanted,
                      args.plain.size() + args.named.size()));
  }
  if (!args.named.empty()) fault_unsupported("named arguments of tests are not supported");
  return test->function(input, wanted > 0 ? args.plain[0] : Value(), budget);
}

}  // namespace deltacome::jinja
