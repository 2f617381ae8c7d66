// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/check.h"
#include "text/jinja_builtins.h"
#include "text/jinja_parser_impl.h"

namespace deltacome::jinja {

NodePtr ExpressionParser::binary(std::string op, NodePtr left, NodePtr right, int line) {
  NodePtr node = make(op == "and" ? Kind::kAnd : op == "or" ? Kind::kOr : Kind::kBinary, line);
  node->name = std::move(op);
  adopt(*node, std::move(left));
  adopt(*node, std::move(right));
  return node;
}

NodePtr ExpressionParser::parse_expression(bool conditions) {
  const Descent descent(*this);
  int line = current().line;
  NodePtr node = parse_or();
  while (conditions && skip_name("if")) {
    NodePtr condition = make(Kind::kCondition, line);
    adopt(*condition, parse_or());
    adopt(*condition, std::move(node));
    adopt(*condition, skip_name("else") ? parse_expression() : nullptr);
    node = std::move(condition);
    line = current().line;
  }
  return node;
}

NodePtr ExpressionParser::parse_or() {
  NodePtr left = parse_and();
  while (at_name("or")) {
    const int line = next().line;
    left = binary("or", std::move(left), parse_and(), line);
  }
  return left;
}

NodePtr ExpressionParser::parse_and() {
  NodePtr left = parse_not();
  while (at_name("and")) {
    const int line = next().line;
    left = binary("and", std::move(left), parse_not(), line);
  }
  return left;
}

NodePtr ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const Descent descent(*this);
  NodePtr node = make(Kind::kNot, next().line);
  adopt(*node, parse_not());
  return node;
}

NodePtr ExpressionParser::parse_compare() {
  const int line = current().line;
  NodePtr first = parse_sum();
  NodePtr compare;
  for (;;) {
    std::string op;
    if (current().type == TokenType::kOperator &&
        (at_op("==") || at_op("!=") || at_op("<") || at_op("<=") || at_op(">") || at_op(">="))) {
      op = next().text;
    } else if (skip_name("in")) {
      op = "in";
    } else if (at_name("not") && look().is(TokenType::kName, "in")) {
      next();
      next();
      op = "not in";
    } else {
      break;
    }
    if (!compare) {
      compare = make(Kind::kCompare, line);
      adopt(*compare, std::move(first));
    }
    compare->ops.push_back(std::move(op));
    adopt(*compare, parse_sum());
  }
  return compare ? std::move(compare) : std::move(first);
}

NodePtr ExpressionParser::parse_sum() {
  NodePtr left = parse_concat();
  while (at_op("+") || at_op("-")) {
    const Token& op = next();
    left = binary(op.text, std::move(left), parse_concat(), op.line);
  }
  return left;
}

NodePtr ExpressionParser::parse_concat() {
  const int line = current().line;
  NodePtr first = parse_product();
  if (!at_op("~")) return first;
  NodePtr node = make(Kind::kConcat, line);
  adopt(*node, std::move(first));
  while (skip_op("~")) adopt(*node, parse_product());
  return node;
}

NodePtr ExpressionParser::parse_product() {
  NodePtr left = parse_power();
  while (at_op("*") || at_op("/") || at_op("//") || at_op("%")) {
    const Token& op = next();
    left = binary(op.text, std::move(left), parse_power(), op.line);
  }
  return left;
}

NodePtr ExpressionParser::parse_power() {
  NodePtr left = parse_unary();
  while (at_op("**")) {  // to the left, unlike Python
    const int line = next().line;
    left = binary("**", std::move(left), parse_unary(), line);
  }
  return left;
}

NodePtr ExpressionParser::parse_unary(bool with_filter) {
  NodePtr node;
  if (at_op("-") || at_op("+")) {
    const Descent descent(*this);
    node = make(at_op("-") ? Kind::kNegate : Kind::kPlus, current().line);
    next();
    adopt(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filter_expression(std::move(node)) : std::move(node);
}

NodePtr ExpressionParser::parse_name() {
  const Token& token = next();
  const std::string& name = token.text;
  NodePtr node = make(Kind::kConst, token.line);
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node->value = Value(name == "true" || name == "True");
  } else if (name == "none" || name == "None") {
    node->value = None{};
  } else {
    if (in_macro_ && (name == "varargs" || name == "kwargs" || name == "caller")) {
      unsupported_at(token.line, name, "macros with named parameters");
    }
    node->kind = Kind::kName;
    node->name = name;
  }
  return node;
}

NodePtr ExpressionParser::parse_number() {
  const Token& token = next();
  NodePtr node = make(Kind::kConst, token.line);
  const char* end = token.text.data() + token.text.size();
  if (token.type == TokenType::kInt) {
    int64_t value = 0;
    if (std::from_chars(token.text.data(), end, value).ec != std::errc()) {
      unsupported_at(token.line, token.text, "integers of 64 bits");
    }
    node->value = value;
  } else {
    node->value = std::strtod(token.text.c_str(), nullptr);
  }
  return node;
}

NodePtr ExpressionParser::parse_primary() {
  const Token& token = current();
  switch (token.type) {
    case TokenType::kName:
      return parse_name();
    case TokenType::kInt:
    case TokenType::kFloat:
      return parse_number();
    case TokenType::kString: {
      NodePtr node = make(Kind::kConst, token.line);
      std::string text;
      while (current().type == TokenType::kString) text += next().text;
      node->value = std::move(text);
      return node;
    }
    default:
      break;
  }
  if (skip_op("(")) {
    NodePtr node = parse_tuple({.parentheses = true});
    expect_op(")");
    return node;
  }
  if (at_op("[")) return parse_list();
  if (at_op("{")) return parse_dict();
  unexpected("an expression");
}

NodePtr ExpressionParser::parse_list() {
  NodePtr node = make(Kind::kList, next().line);
  while (!at_op("]")) {
    if (!node->a.empty()) expect_op(",");
    if (at_op("]")) break;
    adopt(*node, parse_expression());
  }
  expect_op("]");
  return node;
}

NodePtr ExpressionParser::parse_dict() {
  NodePtr node = make(Kind::kDict, next().line);
  while (!at_op("}")) {
    if (!node->a.empty()) expect_op(",");
    if (at_op("}")) break;
    adopt(*node, parse_expression());
    expect_op(":");
    adopt(*node, parse_expression());
  }
  expect_op("}");
  return node;
}

bool ExpressionParser::at_tuple_end() const {
  const TokenType type = current().type;
  return type == TokenType::kVariableEnd || type == TokenType::kBlockEnd || at_op(")");
}

NodePtr ExpressionParser::parse_tuple(const TupleRules& rules) {
  NodePtr tuple = make(Kind::kTuple, current().line);
  bool is_tuple = false;
  for (;;) {
    if (!tuple->a.empty()) expect_op(",");
    if (at_tuple_end()) break;
    adopt(*tuple, parse_expression(rules.conditions));
    if (!at_op(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->a.empty()) return std::move(tuple->a[0]);
  if (!rules.parentheses) unexpected("an expression");
  return tuple;
}

NodePtr ExpressionParser::parse_postfix(NodePtr node) {
  for (;;) {
    if (at_op(".") || at_op("[")) {
      node = parse_subscript(std::move(node));
    } else if (at_op("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

NodePtr ExpressionParser::parse_filter_expression(NodePtr node) {
  for (;;) {
    if (at_op("|")) {
      node = parse_filter_chain(std::move(node), false);
    } else if (at_name("is")) {
      node = parse_test(std::move(node));
    } else if (at_op("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

NodePtr ExpressionParser::parse_subscript(NodePtr object) {
  const Token& open = next();
  if (open.text == "[") return parse_brackets(std::move(object), open.line);
  NodePtr node = make(Kind::kAttr, open.line);
  adopt(*node, std::move(object));
  if (current().type == TokenType::kInt) {
    node->kind = Kind::kItem;
    adopt(*node, parse_number());
  } else {
    node->name = expect_identifier();
  }
  return node;
}

NodePtr ExpressionParser::parse_brackets(NodePtr object, int line) {
  NodePtr parts[3];
  int n_colons = 0;
  NodePtr keys = make(Kind::kTuple, line);  // object[a, b] and object[] have a tuple as the key
  while (!at_op("]")) {
    if (!at_op(":")) parts[n_colons] = parse_expression();
    if (at_op(":") && n_colons < 2 && keys->a.empty()) {
      next();
      ++n_colons;
      continue;
    }
    if (at_op("]") && keys->a.empty()) break;
    if (n_colons > 0 || !parts[0]) unsupported_at(line, "[a:b, c]", "one index or slice");
    adopt(*keys, std::move(parts[0]));
    if (!at_op("]")) expect_op(",");
    if (at_op("]")) break;
  }
  expect_op("]");
  NodePtr node = make(n_colons > 0 ? Kind::kSlice : Kind::kItem, line);
  adopt(*node, std::move(object));
  const bool is_tuple = n_colons == 0 && !parts[0];
  adopt(*node, is_tuple ? std::move(keys) : std::move(parts[0]));
  if (n_colons > 0) {
    adopt(*node, std::move(parts[1]));
    adopt(*node, std::move(parts[2]));
  }
  return node;
}

void ExpressionParser::parse_arguments(Node& call) {
  expect_op("(");
  bool need_comma = false;
  while (!at_op(")")) {
    if (need_comma) {
      expect_op(",");
      if (at_op(")")) break;
    }
    need_comma = true;
    if (at_op("*") || at_op("**")) {
      unsupported_at(current().line, current().text + "arguments", "plain and named arguments");
    }
    if (current().type == TokenType::kName && look().is(TokenType::kOperator, "=")) {
      std::string name = next().text;
      next();
      NodePtr value = parse_expression();
      deepen(call, value.get());
      for (const auto& [other, unused] : call.kwargs) {
        if (other == name) syntax_error(fmt::format("the argument '{}' is repeated", name));
      }
      call.kwargs.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.kwargs.empty()) syntax_error("a plain argument follows a named one");
      adopt(call, parse_expression());
    }
  }
  expect_op(")");
}

NodePtr ExpressionParser::parse_call(NodePtr callee) {
  NodePtr node = make(Kind::kCall, current().line);
  adopt(*node, std::move(callee));
  parse_arguments(*node);
  return node;
}

NodePtr ExpressionParser::parse_filter_chain(NodePtr input, bool start_inline) {
  while (start_inline || at_op("|")) {
    if (!start_inline) next();
    start_inline = false;
    NodePtr node = make(Kind::kFilter, current().line);
    node->name = expect_identifier();
    if (!is_filter(node->name)) unsupported_at(node->line, "|" + node->name, filter_names());
    adopt(*node, std::move(input));
    if (at_op("(")) parse_arguments(*node);
    input = std::move(node);
  }
  return input;
}

NodePtr ExpressionParser::parse_test(NodePtr input) {
  NodePtr node = make(Kind::kTest, next().line);
  const bool negated = skip_name("not");
  node->name = expect_identifier();
  if (!is_test(node->name)) unsupported_at(node->line, "is " + node->name, test_names());
  adopt(*node, std::move(input));
  const TokenType type = current().type;
  if (at_op("(")) {
    parse_arguments(*node);
  } else if ((type == TokenType::kName && !at_any_name({"else", "or", "and"})) ||
             type == TokenType::kString || type == TokenType::kInt || type == TokenType::kFloat ||
             at_op("[") || at_op("{")) {
    if (at_name("is")) syntax_error("tests cannot be chained with 'is'");
    const Descent descent(*this);
    adopt(*node, parse_postfix(parse_primary()));
  }
  if (!negated) return node;
  NodePtr negation = make(Kind::kNot, node->line);
  adopt(*negation, std::move(node));
  return negation;
}

void ExpressionParser::check_storable(const std::string& name) const {
  for (const std::string_view constant : {"true", "True", "false", "False", "none", "None"}) {
    if (name == constant) syntax_error(fmt::format("cannot assign to '{}'", name));
  }
  if (loop_depth_ > 0 && name == "loop") syntax_error("cannot assign to the variable 'loop'");
}

std::string ExpressionParser::parse_plain_target() {
  std::string name = expect_identifier();
  check_storable(name);
  return name;
}

NodePtr ExpressionParser::parse_target_item(bool allow_namespace) {
  const Descent descent(*this);
  if (skip_op("(")) {
    NodePtr node = parse_target(allow_namespace);
    expect_op(")");
    return node;
  }
  NodePtr node = make(Kind::kName, current().line);
  node->name = parse_plain_target();
  if (allow_namespace && skip_op(".")) {
    node->kind = Kind::kNsRef;
    node->value = Value(expect_identifier());
  }
  return node;
}

NodePtr ExpressionParser::parse_target(bool allow_namespace) {
  NodePtr tuple = make(Kind::kTuple, current().line);
  bool is_tuple = false;
  for (;;) {
    if (!tuple->a.empty()) expect_op(",");
    if (is_tuple && at_tuple_end()) break;
    adopt(*tuple, parse_target_item(allow_namespace));
    if (!at_op(",")) break;
    is_tuple = true;
  }
  return is_tuple ? std::move(tuple) : std::move(tuple->a[0]);
}

}  // namespace deltacome::jinja
