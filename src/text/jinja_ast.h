// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace deltacome::jinja {

/// What a Node is; the comment says which of its fields are used. `?` marks a child that may be
/// null.
enum class Kind : uint8_t {
  // Statements
  kText,         // value
  kOutput,       // a: expression
  kFor,          // a: target, iterable, condition?; body; orelse
  kIf,           // a: condition; body; orelse (an elif is an If in it)
  kSet,          // a: target, expression
  kSetBlock,     // a: target, filters of kCaptured?; body
  kMacro,        // name; kwargs: parameters and their defaults?; body
  kFilterBlock,  // a: filters of kCaptured; body
  kWith,         // a: target, expression, target, ...; body
  kGeneration,   // body
  kBreak,
  kContinue,
  // Expressions
  kConst,     // value
  kCaptured,  // the text of the enclosing block
  kName,      // name; a target too
  kNsRef,     // name, value: attribute; a target only
  kList,      // a
  kTuple,     // a; a target too
  kDict,      // a: key, value, key, ...
  kAttr,      // a: object; name
  kItem,      // a: object, key
  kSlice,     // a: object, begin?, end?, step?
  kCall,      // a: callee, arguments...; kwargs
  kFilter,    // a: input, arguments...; kwargs; name
  kTest,      // a: input, arguments...; kwargs; name
  kNot,       // a: operand
  kNegate,    // a: operand
  kPlus,      // a: operand
  kBinary,    // a: left, right; name: operator
  kConcat,    // a
  kCompare,   // a: operands; ops: one fewer
  kAnd,       // a: left, right
  kOr,        // a: left, right
  kCondition  // a: test, then, else?
};

struct Node;
using NodePtr = std::unique_ptr<Node>;

/// One statement or expression of a parsed template. Read-only after parsing.
struct Node {
  Kind kind;
  int line;
  int depth = 1;  // of the tree below; bounded by kMaxNesting
  std::string name;
  Value value;
  std::vector<NodePtr> a;
  std::vector<std::pair<std::string, NodePtr>> kwargs;
  std::vector<std::string> ops;
  std::vector<NodePtr> body;
  std::vector<NodePtr> orelse;
};

}  // namespace deltacome::jinja
