// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/check.h"
#include "text/jinja_builtins.h"
#include "text/jinja_print.h"

namespace deltacome::jinja {

/// The variables of a loop iteration, a macro call or a block; `if` has none of its own.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> variables;
};

namespace {

using ScopePtr = std::shared_ptr<Scope>;
enum class Flow { kNormal, kBreak, kContinue };

constexpr std::array<std::string_view, 5> kGlobals{"range", "dict", "namespace", "raise_exception",
                                                   "strftime_now"};

ScopePtr inner_scope(const ScopePtr& parent) {
  return std::make_shared<Scope>(Scope{.parent = parent, .variables = {}});
}

class Interpreter {
 public:
  Interpreter(const Dict& variables, Budget& budget)
      : budget_(budget), root_(std::make_shared<Scope>()) {
    for (const auto& [name, value] : variables.entries) {
      root_->variables[name.as_string()] = value;
    }
  }
  // Namespaces can refer to each other in cycles and in long chains: cut them one by one.
  ~Interpreter() {
    for (const auto& space : namespaces_) space->attributes = Dict();
  }
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string run(const std::vector<NodePtr>& body) {
    execute(body, root_);
    return std::move(*out_);
  }
  int line() const { return line_; }

 private:
  /// Bounds recursion, of which only macros make much.
  class Level {
   public:
    explicit Level(Interpreter& interpreter) : interpreter_(interpreter) {
      const int limit = interpreter.budget_.limits().depth;
      if (++interpreter_.level_ > limit) {
        --interpreter_.level_;
        fault(fmt::format("the evaluation is nested deeper than {}", limit));
      }
    }
    ~Level() { --interpreter_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Interpreter& interpreter_;
  };

  /// Collects output apart while it lives.
  class Capture {
   public:
    explicit Capture(Interpreter& interpreter)
        : interpreter_(interpreter), outer_(std::exchange(interpreter.out_, &text_)) {}
    ~Capture() { interpreter_.out_ = outer_; }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    std::string take() { return std::move(text_); }

   private:
    Interpreter& interpreter_;
    std::string* outer_;
    std::string text_;
  };

  // Statements

  void emit(std::string_view text) {
    budget_.text(static_cast<int64_t>(out_->size() + text.size()));
    budget_.bytes(static_cast<int64_t>(text.size()));
    *out_ += text;
  }

  Flow execute(const std::vector<NodePtr>& body, const ScopePtr& scope) {
    for (const NodePtr& node : body) {
      const Flow flow = execute(*node, scope);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow execute(const Node& node, const ScopePtr& scope) {
    const Level level(*this);
    budget_.step();
    line_ = node.line;
    switch (node.kind) {
      case Kind::kText:
        emit(node.value.as_string());
        return Flow::kNormal;
      case Kind::kOutput: {
        const Value value = evaluate(*node.a[0], scope);
        value.is(Type::kString) ? emit(value.as_string()) : emit(to_text(value, budget_));
        return Flow::kNormal;
      }
      case Kind::kIf:
        return execute(truthy(evaluate(*node.a[0], scope)) ? node.body : node.orelse, scope);
      case Kind::kFor:
        return execute_for(node, scope);
      case Kind::kSet:
        assign(*node.a[0], evaluate(*node.a[1], scope), scope);
        return Flow::kNormal;
      case Kind::kBreak:
        return Flow::kBreak;
      case Kind::kContinue:
        return Flow::kContinue;
      case Kind::kMacro:
        define_macro(node, scope);
        return Flow::kNormal;
      case Kind::kGeneration:
        return execute(node.body, inner_scope(scope));
      default:
        return execute_block(node, scope);
    }
  }

  Flow execute_block(const Node& node, const ScopePtr& scope) {
    const ScopePtr inner = inner_scope(scope);
    if (node.kind == Kind::kWith) {
      for (size_t i = 0; i < node.a.size(); i += 2) {
        assign(*node.a[i], evaluate(*node.a[i + 1], scope), inner);
      }
      return execute(node.body, inner);
    }
    Value text;
    {
      Capture capture(*this);
      const Flow flow = execute(node.body, inner);
      if (flow != Flow::kNormal) return flow;  // jinja2 drops the text too
      text = Value(capture.take());
    }
    const bool is_set = node.kind == Kind::kSetBlock;
    const Node* filters = node.a[is_set ? 1 : 0].get();
    if (filters) {
      const Value outer = std::exchange(captured_, text);
      text = evaluate(*filters, inner);
      captured_ = outer;
    }
    if (is_set) {
      assign(*node.a[0], text, scope);
    } else {
      emit(to_text(text, budget_));
    }
    return Flow::kNormal;
  }

  Flow execute_for(const Node& node, const ScopePtr& scope) {
    const Value source = evaluate(*node.a[1], scope);
    line_ = node.line;
    const std::vector<Value> items = iterate_or_fault(source, budget_);
    auto loop = std::make_shared<Loop>();
    for (const Value& item : items) loop->depth = std::max(loop->depth, 1 + depth_of(item));
    if (loop->depth >= kMaxNesting) {
      fault(fmt::format("values are nested deeper than {}", kMaxNesting));
    }
    size_t next = 0;
    loop->pull = [&] {
      while (next < items.size()) {
        const Value& item = items[next++];
        if (node.a[2]) {
          const ScopePtr inner = inner_scope(scope);
          assign(*node.a[0], item, inner);
          if (!truthy(evaluate(*node.a[2], inner))) continue;
        }
        loop->items.push_back(item);
        return true;
      }
      return false;
    };
    const std::shared_ptr<void> at_end(nullptr, [&](void*) { loop->pull = nullptr; });
    bool ran = false;
    for (; loop->index < loop->items.size() || loop->pull(); ++loop->index) {
      budget_.step();
      const ScopePtr inner = inner_scope(scope);
      inner->variables["loop"] = loop;
      assign(*node.a[0], loop->items[loop->index], inner);
      const Flow flow = execute(node.body, inner);
      if (flow == Flow::kBreak) break;
      // As in jinja2, where an iteration that ends early does not count for `else`.
      ran = ran || flow == Flow::kNormal;
    }
    return ran ? Flow::kNormal : execute(node.orelse, inner_scope(scope));
  }

  void assign(const Node& target, const Value& value, const ScopePtr& scope) {
    line_ = target.line;
    if (target.kind == Kind::kName) {
      scope->variables[target.name] = value;
    } else if (target.kind == Kind::kNsRef) {
      const Value space = look_up(target.name, scope);
      if (!space.is(Type::kNamespace)) fault("cannot assign attribute on non-namespace object");
      space.as_namespace().attributes.set(target.value, value, budget_);
    } else {
      const std::vector<Value> items = iterate_or_fault(value, budget_);
      if (items.size() != target.a.size()) {
        fault(fmt::format("cannot unpack {} values into {}", items.size(), target.a.size()));
      }
      for (size_t i = 0; i < items.size(); ++i) assign(*target.a[i], items[i], scope);
    }
  }

  void define_macro(const Node& node, const ScopePtr& scope) {
    auto macro = std::make_shared<Callable>();
    macro->name = node.name;
    macro->macro = &node;
    macro->scope = scope;
    scope->variables[node.name] = std::shared_ptr<const Callable>(std::move(macro));
  }

  // Expressions

  Value look_up(const std::string& name, const ScopePtr& scope) {
    for (const Scope* s = scope.get(); s != nullptr; s = s->parent.get()) {
      const auto it = s->variables.find(name);
      if (it != s->variables.end()) return it->second;
    }
    if (std::find(kGlobals.begin(), kGlobals.end(), name) != kGlobals.end()) {
      auto function = std::make_shared<Callable>();
      function->name = name;
      return std::shared_ptr<const Callable>(std::move(function));
    }
    if (name == "joiner" || name == "cycler" || name == "lipsum") {
      fault_unsupported(fmt::format("the construct '{}()' is not supported; supported are {}", name,
                                    fmt::join(kGlobals, ", ")));
    }
    return Value::undefined(fmt::format("'{}' is undefined", name));
  }

  Value evaluate(const Node& node, const ScopePtr& scope) {
    const Level level(*this);
    budget_.step();
    line_ = node.line;
    switch (node.kind) {
      case Kind::kConst:
        return node.value;
      case Kind::kCaptured:
        return captured_;
      case Kind::kName:
        return look_up(node.name, scope);
      case Kind::kAnd:
      case Kind::kOr: {
        Value left = evaluate(*node.a[0], scope);
        return truthy(left) == (node.kind == Kind::kOr) ? left : evaluate(*node.a[1], scope);
      }
      case Kind::kNot:
        return !truthy(evaluate(*node.a[0], scope));
      case Kind::kCondition:
        if (truthy(evaluate(*node.a[0], scope))) return evaluate(*node.a[1], scope);
        if (node.a[2]) return evaluate(*node.a[2], scope);
        return Value::undefined("an inline if without else was false");
      case Kind::kCompare:
        return evaluate_compare(node, scope);
      case Kind::kCall:
        return charged(evaluate_call(node, scope));
      default:
        return charged(evaluate_operation(node, scope));
    }
  }

  /// Those whose operands are all evaluated first.
  Value evaluate_operation(const Node& node, const ScopePtr& scope) {
    if (node.kind == Kind::kFilter || node.kind == Kind::kTest) {
      const Value input = evaluate(*node.a[0], scope);
      const Args args = evaluate_arguments(node, scope);
      line_ = node.line;
      if (node.kind == Kind::kTest) return apply_test(node.name, input, args, budget_);
      return apply_filter(node.name, input, args, budget_);
    }
    std::vector<Value> operands;
    for (const NodePtr& child : node.a) {
      operands.push_back(child ? evaluate(*child, scope) : Value(None{}));
    }
    line_ = node.line;
    switch (node.kind) {
      case Kind::kList:
        return make_list(std::move(operands));
      case Kind::kTuple:
        return make_list(std::move(operands), SeqKind::kTuple);
      case Kind::kDict: {
        auto dict = std::make_shared<Dict>();
        for (size_t i = 0; i < operands.size(); i += 2) {
          dict->set(operands[i], operands[i + 1], budget_);
        }
        return make_dict(std::move(dict));
      }
      case Kind::kAttr:
        return get_attribute(operands[0], node.name, budget_);
      case Kind::kItem:
        return get_item(operands[0], operands[1], budget_);
      case Kind::kSlice:
        return get_slice(operands, budget_);
      case Kind::kBinary:
        return binary_operation(node.name, operands[0], operands[1], budget_);
      case Kind::kNegate:
        return negate(operands[0]);
      case Kind::kPlus:
        return unary_plus(operands[0]);
      case Kind::kConcat: {
        std::string text;
        for (const Value& operand : operands) {
          text += to_text(operand, budget_);
          budget_.text(static_cast<int64_t>(text.size()));
        }
        return Value(std::move(text));
      }
      default:
        break;
    }
    fail(ErrorCode::kInternal, "internal error: a statement evaluated as an expression");
  }

  /// Accounts for a value that may be new.
  Value charged(Value value) {
    if (value.is(Type::kString)) {
      budget_.text(static_cast<int64_t>(value.as_string().size()));
      budget_.bytes(static_cast<int64_t>(value.as_string().size()));
    } else if (value.is(Type::kList)) {
      budget_.bytes(static_cast<int64_t>(value.as_list().items.size() * sizeof(Value)));
    }
    return value;
  }

  bool compare(std::string_view op, const Value& a, const Value& b) {
    if (op == "==") return equals(a, b, budget_);
    if (op == "!=") return !equals(a, b, budget_);
    if (op == "in") return contains(b, a, budget_);
    if (op == "not in") return !contains(b, a, budget_);
    const bool strict = op.size() == 1;
    if (!strict && equals(a, b, budget_) && !a.is(Type::kUndefined) && is_ordered(a)) return true;
    return op[0] == '<' ? less(a, b, budget_) : less(b, a, budget_);
  }
  static bool is_ordered(const Value& value) {
    return value.is_number() || value.is(Type::kString) ||
           (value.is(Type::kList) && value.as_list().kind <= SeqKind::kTuple);
  }

  Value evaluate_compare(const Node& node, const ScopePtr& scope) {
    Value left = evaluate(*node.a[0], scope);
    for (size_t i = 0; i < node.ops.size(); ++i) {
      Value right = evaluate(*node.a[i + 1], scope);
      line_ = node.line;
      if (!compare(node.ops[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  Args evaluate_arguments(const Node& node, const ScopePtr& scope) {
    Args args;
    for (size_t i = 1; i < node.a.size(); ++i) args.plain.push_back(evaluate(*node.a[i], scope));
    for (const auto& [name, value] : node.kwargs) {
      args.named.emplace_back(name, evaluate(*value, scope));
    }
    return args;
  }

  Value evaluate_call(const Node& node, const ScopePtr& scope) {
    const Value callee = evaluate(*node.a[0], scope);
    const Args args = evaluate_arguments(node, scope);
    line_ = node.line;
    if (callee.is(Type::kUndefined)) fault_undefined(callee);
    if (callee.is(Type::kLoop)) fault_unsupported("calling 'loop' (recursion) is not supported");
    if (!callee.is(Type::kCallable)) {
      fault(fmt::format("'{}' object is not callable", type_name(callee)));
    }
    const Callable& function = callee.as_callable();
    if (function.macro) return call_macro(function, args);
    if (!function.self.is(Type::kUndefined)) return call_method(function, args, budget_);
    return call_global(function.name, args);
  }

  Value call_macro(const Callable& macro, const Args& args) {
    const Node& node = *macro.macro;
    const ScopePtr outer = macro.scope.lock();
    if (!outer) {
      fault_unsupported(
          fmt::format("calling the macro '{}' outside of its loop is not supported", node.name));
    }
    if (args.plain.size() > node.kwargs.size()) {
      fault(fmt::format("macro '{}' takes not more than {} arguments", node.name,
                        node.kwargs.size()));
    }
    const ScopePtr scope = inner_scope(outer);
    for (size_t i = 0; i < args.plain.size(); ++i) {
      scope->variables[node.kwargs[i].first] = args.plain[i];
    }
    for (const auto& [name, value] : args.named) {
      const bool known = std::any_of(node.kwargs.begin(), node.kwargs.end(),
                                     [&, &n = name](const auto& p) { return p.first == n; });
      if (!known || !scope->variables.emplace(name, value).second) {
        fault(fmt::format("macro '{}' takes no keyword argument '{}'", node.name, name));
      }
    }
    for (const auto& [name, otherwise] : node.kwargs) {
      if (scope->variables.contains(name)) continue;
      scope->variables[name] =
          otherwise ? evaluate(*otherwise, scope)
                    : Value::undefined(fmt::format("parameter '{}' was not provided", name));
    }
    Capture capture(*this);
    execute(node.body, scope);
    return Value(capture.take());
  }

  Value call_global(const std::string& name, const Args& args) {
    if (name == "range") return make_range(args);
    if (name == "raise_exception") {
      const Bound bound(name, args, {"message"});
      throw Error(ErrorCode::kInvalidArgument, to_text(bound.required(0), budget_));
    }
    if (name == "strftime_now") {
      const Bound bound(name, args, {"format"});
      return Value(local_time(bound.text(0)));
    }
    auto values = std::make_shared<Dict>();  // dict() or namespace()
    if (args.plain.size() > 1) fault(fmt::format("{}() takes at most 1 argument", name));
    for (const Value& source : args.plain) {
      if (!source.is(Type::kDict)) {
        fault_unsupported(
            fmt::format("{}() of a '{}' is not supported; supported are dicts and "
                        "named arguments",
                        name, type_name(source)));
      }
      for (const auto& [key, value] : source.as_dict().entries) values->set(key, value, budget_);
    }
    for (const auto& [key, value] : args.named) values->set(Value(key), value, budget_);
    if (name == "dict") return make_dict(std::move(values));
    auto space = std::make_shared<Namespace>(Namespace{std::move(*values)});
    namespaces_.push_back(space);
    return space;
  }

  Budget& budget_;
  ScopePtr root_;
  std::string text_;
  std::string* out_ = &text_;
  Value captured_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  int level_ = 0;
  int line_ = 1;
};

}  // namespace

std::string render_template(const std::vector<NodePtr>& body, const Dict& variables,
                            Budget& budget) {
  Interpreter interpreter(variables, budget);
  try {
    return interpreter.run(body);
  } catch (const Fault& f) {
    fail(f.code, "chat template line {}: {}", interpreter.line(), f.message);
  }
}

}  // namespace deltacome::jinja
