// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace deltacome::jinja {

/// Throws kUnsupported naming `construct` and what there is instead.
[[noreturn]] void unsupported_at(int line, std::string_view construct, std::string_view supported);

/// A position in the tokens and what both parsers need of it.
class TokenCursor {
 public:
  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& current() const { return tokens_[pos_]; }
  const Token& look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  const Token& next();
  bool at_op(std::string_view op) const { return current().is(TokenType::kOperator, op); }
  bool at_name(std::string_view name) const { return current().is(TokenType::kName, name); }
  bool at_any_name(std::initializer_list<std::string_view> names) const;
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  void expect(TokenType type);
  std::string expect_identifier();
  [[noreturn]] void syntax_error(const std::string& message) const;
  [[noreturn]] void unexpected(std::string_view wanted) const;

  /// Counts nested constructs while the parser descends.
  class Descent {
   public:
    explicit Descent(TokenCursor& cursor);
    ~Descent() { --cursor_.nesting_; }
    Descent(const Descent&) = delete;
    Descent& operator=(const Descent&) = delete;

   private:
    TokenCursor& cursor_;
  };

  NodePtr make(Kind kind, int line) const;
  void adopt(Node& parent, NodePtr child);  // appends to a; child may be null
  void deepen(Node& parent, const Node* child) const;

 private:
  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
};

/// The grammar of expressions, lowest precedence first.
class ExpressionParser : public TokenCursor {
 public:
  using TokenCursor::TokenCursor;

 protected:
  struct TupleRules {
    bool conditions = true;    // allow the inline if
    bool parentheses = false;  // an empty tuple is fine
  };
  NodePtr parse_expression(bool conditions = true);
  NodePtr parse_tuple(const TupleRules& rules);
  NodePtr parse_target(bool allow_namespace);
  std::string parse_plain_target();
  NodePtr parse_filter_chain(NodePtr input, bool start_inline);

  bool in_macro_ = false;  // varargs and kwargs have a meaning there that is not supported
  int loop_depth_ = 0;

 private:
  NodePtr parse_or();
  NodePtr parse_and();
  NodePtr parse_not();
  NodePtr parse_compare();
  NodePtr parse_sum();
  NodePtr parse_concat();
  NodePtr parse_product();
  NodePtr parse_power();
  NodePtr parse_unary(bool with_filter = true);
  NodePtr parse_primary();
  NodePtr parse_name();
  NodePtr parse_number();
  NodePtr parse_list();
  NodePtr parse_dict();
  NodePtr parse_postfix(NodePtr node);
  NodePtr parse_filter_expression(NodePtr node);
  NodePtr parse_subscript(NodePtr node);
  NodePtr parse_brackets(NodePtr node, int line);
  NodePtr parse_test(NodePtr node);
  NodePtr parse_call(NodePtr callee);
  void parse_arguments(Node& call);
  NodePtr parse_target_item(bool allow_namespace);
  NodePtr binary(std::string op, NodePtr left, NodePtr right, int line);
  bool at_tuple_end() const;
  void check_storable(const std::string& name) const;
};

}  // namespace deltacome::jinja
