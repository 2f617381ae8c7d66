// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_parser.h"

#include <fmt/format.h>

#include "text/jinja_parser_impl.h"

namespace deltacome::jinja {
namespace {

constexpr std::string_view kStatements =
    "if, for, set, macro, filter, with, generation, break, continue and raw";

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  std::vector<NodePtr> run() {
    std::vector<NodePtr> body = parse_body({});
    return body;
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  /// Statements up to a tag that begins with one of `ends`, whose name is then current; with no
  /// ends, up to the end of the template.
  std::vector<NodePtr> parse_body(Names ends) {
    const Descent descent(*this);
    std::vector<NodePtr> body;
    for (;;) {
      const Token& token = current();
      if (token.type == TokenType::kEnd) {
        if (ends.size() > 0) {
          unexpected(fmt::format("'{}'", *(ends.end() - 1)));
        }
        return body;
      }
      next();
      if (token.type == TokenType::kData) {
        NodePtr node = make(Kind::kText, token.line);
        node->value = Value(token.text);
        body.push_back(std::move(node));
      } else if (token.type == TokenType::kVariableBegin) {
        NodePtr node = make(Kind::kOutput, token.line);
        adopt(*node, parse_tuple({}));
        expect(TokenType::kVariableEnd);
        body.push_back(std::move(node));
      } else {
        if (at_any_name(ends)) return body;
        body.push_back(parse_statement());
        expect(TokenType::kBlockEnd);
      }
    }
  }

  /// A body after the head of a statement, with its end tag's name taken.
  void parse_block(Node& owner, std::vector<NodePtr>& body, Names ends) {
    skip_op(":");
    expect(TokenType::kBlockEnd);
    body = parse_body(ends);
    for (const NodePtr& node : body) deepen(owner, node.get());
  }

  NodePtr parse_statement() {
    const Token& token = current();
    if (token.type != TokenType::kName) unexpected("the name of a statement");
    const std::string& name = token.text;
    if (name == "if") return parse_if();
    if (name == "for") return parse_for();
    if (name == "set") return parse_set();
    if (name == "macro") return parse_macro();
    if (name == "filter") return parse_filter_block();
    if (name == "with") return parse_with();
    if (name == "generation") return parse_generation();
    if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) syntax_error(fmt::format("'{}' outside of a loop", name));
      return make(next().text == "break" ? Kind::kBreak : Kind::kContinue, token.line);
    }
    if (name.starts_with("end") || name == "elif" || name == "else") {
      syntax_error(fmt::format("unexpected '{}'", name));
    }
    unsupported_at(token.line, name, kStatements);
  }

  NodePtr parse_if() {
    NodePtr node = make(Kind::kIf, next().line);
    adopt(*node, parse_tuple({.conditions = false}));
    parse_block(*node, node->body, {"elif", "else", "endif"});
    if (at_name("elif")) {
      const Descent descent(*this);
      node->orelse.push_back(parse_if());
      deepen(*node, node->orelse[0].get());
    } else if (next().text == "else") {
      parse_block(*node, node->orelse, {"endif"});
      next();
    }
    return node;
  }

  NodePtr parse_for() {
    NodePtr node = make(Kind::kFor, next().line);
    ++loop_depth_;  // 'loop' is reserved in the target too
    adopt(*node, parse_target(false));
    expect_name("in");
    adopt(*node, parse_tuple({.conditions = false}));
    adopt(*node, skip_name("if") ? parse_expression() : nullptr);
    if (at_name("recursive")) unsupported_at(current().line, "for ... recursive", kStatements);
    parse_block(*node, node->body, {"else", "endfor"});
    --loop_depth_;
    if (next().text == "else") {
      parse_block(*node, node->orelse, {"endfor"});
      next();
    }
    return node;
  }

  NodePtr parse_set() {
    NodePtr node = make(Kind::kSet, next().line);
    adopt(*node, parse_target(true));
    if (skip_op("=")) {
      adopt(*node, parse_tuple({}));
      return node;
    }
    node->kind = Kind::kSetBlock;
    adopt(*node,
          at_op("|") ? parse_filter_chain(make(Kind::kCaptured, node->line), false) : nullptr);
    parse_block(*node, node->body, {"endset"});
    next();
    return node;
  }

  NodePtr parse_macro() {
    NodePtr node = make(Kind::kMacro, next().line);
    node->name = parse_plain_target();
    expect_op("(");
    while (!at_op(")")) {
      if (!node->kwargs.empty()) expect_op(",");
      if (at_op("*") || at_op("**")) {
        unsupported_at(current().line, current().text + " parameters", "named parameters");
      }
      std::string name = parse_plain_target();
      NodePtr value = skip_op("=") ? parse_expression() : nullptr;
      if (!value && !node->kwargs.empty() && node->kwargs.back().second) {
        syntax_error("a parameter without default follows one with a default");
      }
      deepen(*node, value.get());
      for (const auto& [other, unused] : node->kwargs) {
        if (other == name) syntax_error(fmt::format("the parameter '{}' is repeated", name));
      }
      node->kwargs.emplace_back(std::move(name), std::move(value));
    }
    expect_op(")");
    const bool was_in_macro = std::exchange(in_macro_, true);
    const int outer_loops = std::exchange(loop_depth_, 0);
    parse_block(*node, node->body, {"endmacro"});
    in_macro_ = was_in_macro;
    loop_depth_ = outer_loops;
    next();
    return node;
  }

  NodePtr parse_filter_block() {
    NodePtr node = make(Kind::kFilterBlock, next().line);
    adopt(*node, parse_filter_chain(make(Kind::kCaptured, node->line), true));
    parse_block(*node, node->body, {"endfilter"});
    next();
    return node;
  }

  NodePtr parse_with() {
    NodePtr node = make(Kind::kWith, next().line);
    while (current().type != TokenType::kBlockEnd) {
      if (!node->a.empty()) expect_op(",");
      adopt(*node, parse_target(false));
      expect_op("=");
      adopt(*node, parse_expression());
    }
    parse_block(*node, node->body, {"endwith"});
    next();
    return node;
  }

  NodePtr parse_generation() {
    NodePtr node = make(Kind::kGeneration, next().line);
    const int outer_loops = std::exchange(loop_depth_, 0);
    parse_block(*node, node->body, {"endgeneration"});
    loop_depth_ = outer_loops;
    next();
    return node;
  }
};

}  // namespace

std::vector<NodePtr> parse_template(std::string_view source) {
  return Parser(tokenize(source)).run();
}

}  // namespace deltacome::jinja
