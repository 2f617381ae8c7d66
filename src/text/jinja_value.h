// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "deltacome/error.h"

namespace deltacome::jinja {

/// A failure inside a template. The parser and the interpreter, which know the line, turn it into
/// an Error; it never leaves this module.
struct Fault {
  ErrorCode code;
  std::string message;
};
[[noreturn]] void fault(std::string message);              // kInvalidArgument: a wrong operand
[[noreturn]] void fault_unsupported(std::string message);  // kUnsupported

/// What one rendering may consume. A template is untrusted input: the limits end hostile ones in
/// about a second and are far above what a shipped one needs for a prompt of a megabyte.
struct Limits {
  int64_t steps = 10'000'000;             // evaluated nodes, iterations, comparisons
  int64_t bytes = int64_t{1} << 30;       // all strings and lists ever made
  int64_t text_bytes = int64_t{1} << 24;  // one string, and the output
  int depth = 1000;                       // nested evaluation, mostly recursion of macros
};
inline constexpr int kMaxNesting = 200;  // of values and of the syntax tree

class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  void step(int64_t n = 1);
  void bytes(int64_t n);             // n bytes were, or are about to be, allocated
  void text(int64_t n_bytes) const;  // a string of that length is being made
  const Limits& limits() const { return limits_; }

 private:
  Limits limits_;
  int64_t steps_ = 0;
  int64_t bytes_ = 0;
};

struct Dict;
struct List;
struct Namespace;
struct Callable;
struct Loop;

/// The result of a failed look-up: prints as "", is false and empty; any other use is an error with
/// the message `what`.
struct Undefined {
  std::shared_ptr<const std::string> what;
};
struct None {};

enum class Type : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kDict,
  kNamespace,
  kCallable,
  kLoop
};

/// A Python value as a template sees it. Immutable except namespaces and loops; copies share.
/// Strings are valid UTF-8 and count in code points. Integers are 64 bits; beyond them is a fault.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(None) : data_(None{}) {}
  Value(bool v) : data_(v) {}
  Value(int64_t v) : data_(v) {}
  Value(double v) : data_(v) {}
  Value(std::string v) : data_(std::make_shared<const std::string>(std::move(v))) {}
  Value(std::shared_ptr<const List> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<const Dict> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Namespace> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<const Callable> v) : data_(std::move(v)) {}
  Value(std::shared_ptr<Loop> v) : data_(std::move(v)) {}
  Value(const char*) = delete;  // would become a bool
  static Value undefined(std::string what);

  Type type() const noexcept { return static_cast<Type>(data_.index()); }
  bool is(Type t) const noexcept { return type() == t; }
  bool is_integral() const noexcept { return is(Type::kInt) || is(Type::kBool); }
  bool is_number() const noexcept { return is_integral() || is(Type::kFloat); }

  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const {  // of a bool too
    return is(Type::kBool) ? int64_t{as_bool()} : std::get<int64_t>(data_);
  }
  double as_double() const {  // of any number
    return is(Type::kFloat) ? std::get<double>(data_) : static_cast<double>(as_int());
  }
  const std::string& as_string() const { return *std::get<5>(data_); }
  const List& as_list() const { return *std::get<6>(data_); }
  const Dict& as_dict() const { return *std::get<7>(data_); }
  Namespace& as_namespace() const { return *std::get<8>(data_); }
  const Callable& as_callable() const { return *std::get<9>(data_); }
  Loop& as_loop() const { return *std::get<10>(data_); }
  const std::shared_ptr<const List>& list_ptr() const { return std::get<6>(data_); }
  std::string undefined_what() const;
  const void* identity() const noexcept;  // of a shared object; null for scalars

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Callable>, std::shared_ptr<Loop>>
      data_;
};

/// Python's kinds of sequence, which differ in what they allow: a view has no index, a lazy one
/// (generator or iterator) not even a length.
enum class SeqKind : uint8_t { kList, kTuple, kRange, kView, kLazy };

struct List {
  SeqKind kind = SeqKind::kList;
  std::vector<Value> items;
  int depth = 1;          // nesting of the values inside, this one included
  std::string_view view;  // "dict_keys" and the like for kView
};

/// Insertion-ordered, as in Python.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_map<std::string, size_t> index;  // hash_key() -> position in entries
  int depth = 1;

  void set(const Value& key, Value value, Budget& budget);
  const Value* find(const Value& key, Budget& budget) const;  // null if absent
  const Value* find(std::string_view key) const;
};

struct Namespace {
  Dict attributes;
};

struct Node;
struct Scope;

/// A global function (no self, no macro), a method bound to self, or a macro.
struct Callable {
  std::string name;
  Value self;
  const Node* macro = nullptr;
  std::weak_ptr<Scope> scope;  // where the macro was defined
};

/// The variable `loop` of a for statement. The condition of the statement is tested as late as in
/// jinja2: items are taken one by one, ahead only where an attribute needs it.
struct Loop {
  std::vector<Value> items;    // taken so far
  std::function<bool()> pull;  // takes one more; false at the end; null when the loop is over
  size_t index = 0;
  int depth = 1;
  std::optional<std::vector<Value>> last_changed;

  bool has_next() { return index + 1 < items.size() || (pull && pull()); }
  int64_t length() {
    while (pull && pull()) {
    }
    return static_cast<int64_t>(items.size());
  }
};

/// Throws when the result would be nested too deeply.
Value make_list(std::vector<Value> items, SeqKind kind = SeqKind::kList);
Value make_view(std::vector<Value> items, std::string_view name);
Value make_dict(std::shared_ptr<Dict> dict);
Value make_method(const Value& self, std::string_view name);
int depth_of(const Value& value);

bool truthy(const Value& value);
bool equals(const Value& a, const Value& b, Budget& budget);
/// Python's `<`; a fault for types without an order.
bool less(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);  // item in container
/// Equal for exactly the values that are equal; a fault for unhashable ones.
std::string hash_key(const Value& value, Budget& budget);
/// len(); nullopt if the type has none.
std::optional<int64_t> length(const Value& value);
/// iter() as a list; nullopt if not iterable.
std::optional<std::vector<Value>> iterate(const Value& value, Budget& budget);
std::vector<Value> iterate_or_fault(const Value& value, Budget& budget);
std::string type_name(const Value& value);  // as Python names it
[[noreturn]] void fault_undefined(const Value& value);

}  // namespace deltacome::jinja
