// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "text/jinja_parser_impl.h"

namespace deltacome::jinja {

void unsupported_at(int line, std::string_view construct, std::string_view supported) {
  fail(ErrorCode::kUnsupported,
       "chat template line {}: the construct '{}' is not supported; supported are {}", line,
       construct, supported);
}

const Token& TokenCursor::next() {
  const Token& token = tokens_[pos_];
  if (pos_ + 1 < tokens_.size()) ++pos_;
  return token;
}

bool TokenCursor::at_any_name(std::initializer_list<std::string_view> names) const {
  return current().type == TokenType::kName &&
         std::find(names.begin(), names.end(), current().text) != names.end();
}

bool TokenCursor::skip_op(std::string_view op) {
  if (!at_op(op)) return false;
  next();
  return true;
}

bool TokenCursor::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  next();
  return true;
}

void TokenCursor::expect_op(std::string_view op) {
  if (!skip_op(op)) unexpected(fmt::format("'{}'", op));
}

void TokenCursor::expect_name(std::string_view name) {
  if (!skip_name(name)) unexpected(fmt::format("'{}'", name));
}

void TokenCursor::expect(TokenType type) {
  if (current().type != type) {
    unexpected(type == TokenType::kBlockEnd      ? "the end of the statement"
               : type == TokenType::kVariableEnd ? "the end of the print statement"
                                                 : "something else");
  }
  next();
}

std::string TokenCursor::expect_identifier() {
  if (current().type != TokenType::kName) unexpected("a name");
  return next().text;
}

void TokenCursor::syntax_error(const std::string& message) const {
  fail(ErrorCode::kCorrupt, "chat template line {}: {}", current().line, message);
}

void TokenCursor::unexpected(std::string_view wanted) const {
  std::string got;
  switch (current().type) {
    case TokenType::kEnd:
      got = "the end of the template";
      break;
    case TokenType::kData:
      got = "text";
      break;
    case TokenType::kBlockEnd:
      got = "'%}'";
      break;
    case TokenType::kVariableEnd:
      got = "'}}'";
      break;
    default:
      got = fmt::format("'{}'", current().text);
  }
  syntax_error(fmt::format("got {}, expected {}", got, wanted));
}

TokenCursor::Descent::Descent(TokenCursor& cursor) : cursor_(cursor) {
  if (++cursor_.nesting_ > kMaxNesting) {
    fail(ErrorCode::kUnsupported, "chat template line {}: constructs are nested deeper than {}",
         cursor_.current().line, kMaxNesting);
  }
}

NodePtr TokenCursor::make(Kind kind, int line) const {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  node->line = line;
  return node;
}

void TokenCursor::deepen(Node& parent, const Node* child) const {
  if (child == nullptr) return;
  parent.depth = std::max(parent.depth, child->depth + 1);
  if (parent.depth > kMaxNesting) {
    fail(ErrorCode::kUnsupported, "chat template line {}: constructs are nested deeper than {}",
         parent.line, kMaxNesting);
  }
}

void TokenCursor::adopt(Node& parent, NodePtr child) {
  deepen(parent, child.get());
  parent.a.push_back(std::move(child));
}

}  // namespace deltacome::jinja
