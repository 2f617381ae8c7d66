// SPDX-License-Identifier: Apache-2.0
#include "text/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {

void fault(std::string message) {
  throw Fault{ErrorCode::kInvalidArgument, std::move(message)};
}

void fault_unsupported(std::string message) {
  throw Fault{ErrorCode::kUnsupported, std::move(message)};
}

void Budget::step(int64_t n) {
  steps_ += n;
  if (steps_ > limits_.steps) {
    fault(fmt::format("the template took more than {} steps", limits_.steps));
  }
}

void Budget::bytes(int64_t n) {
  bytes_ += n;
  if (bytes_ > limits_.bytes) {
    fault(fmt::format("the template made more than {} MiB of values", limits_.bytes >> 20));
  }
}

void Budget::text(int64_t n_bytes) const {
  if (n_bytes > limits_.text_bytes) {
    fault(fmt::format("the template made a text of more than {} MiB", limits_.text_bytes >> 20));
  }
}

Value Value::undefined(std::string what) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(what))};
  return value;
}

std::string Value::undefined_what() const {
  const auto* undefined = std::get_if<Undefined>(&data_);
  return undefined && undefined->what ? *undefined->what : "the value is undefined";
}

const void* Value::identity() const noexcept {
  switch (type()) {
    case Type::kList:
      return std::get<6>(data_).get();
    case Type::kDict:
      return std::get<7>(data_).get();
    case Type::kNamespace:
      return std::get<8>(data_).get();
    case Type::kCallable:
      return std::get<9>(data_).get();
    case Type::kLoop:
      return std::get<10>(data_).get();
    default:
      return nullptr;
  }
}

void Dict::set(const Value& key, Value value, Budget& budget) {
  depth = std::max({depth, 1 + depth_of(key), 1 + depth_of(value)});
  if (depth > kMaxNesting) fault(fmt::format("values are nested deeper than {}", kMaxNesting));
  const auto [it, inserted] = index.try_emplace(hash_key(key, budget), entries.size());
  if (inserted) {
    entries.emplace_back(key, std::move(value));
  } else {
    entries[it->second].second = std::move(value);  // keeps its place, as in Python
  }
}

const Value* Dict::find(const Value& key, Budget& budget) const {
  const auto it = index.find(hash_key(key, budget));
  return it == index.end() ? nullptr : &entries[it->second].second;
}

const Value* Dict::find(std::string_view key) const {
  const auto it = index.find(fmt::format("s{}", key));
  return it == index.end() ? nullptr : &entries[it->second].second;
}

int depth_of(const Value& value) {
  switch (value.type()) {
    case Type::kList:
      return value.as_list().depth;
    case Type::kDict:
      return value.as_dict().depth;
    case Type::kCallable:
      return 1 + depth_of(value.as_callable().self);
    case Type::kLoop:
      return 1 + value.as_loop().depth;
    default:
      return 0;  // a namespace is cut by its owner, the interpreter
  }
}

namespace {

std::shared_ptr<List> new_list(std::vector<Value> items, SeqKind kind) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) list->depth = std::max(list->depth, 1 + depth_of(item));
  if (list->depth > kMaxNesting) {
    fault(fmt::format("values are nested deeper than {}", kMaxNesting));
  }
  list->kind = kind;
  list->items = std::move(items);
  return list;
}

bool equal_sequences(const List& a, const List& b, Budget& budget) {
  if (a.kind != b.kind || a.kind == SeqKind::kLazy || a.items.size() != b.items.size()) {
    return false;
  }
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equals(a.items[i], b.items[i], budget)) return false;
  }
  return true;
}

bool equal_dicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, position] : a.index) {
    const auto it = b.index.find(key);
    if (it == b.index.end() ||
        !equals(a.entries[position].second, b.entries[it->second].second, budget)) {
      return false;
    }
  }
  return true;
}

// Exact: a 64-bit mantissa holds every int64 and every double.
long double exact(const Value& number) {
  return number.is(Type::kFloat) ? static_cast<long double>(number.as_double())
                                 : static_cast<long double>(number.as_int());
}

}  // namespace

Value make_list(std::vector<Value> items, SeqKind kind) {
  return std::shared_ptr<const List>(new_list(std::move(items), kind));
}

Value make_view(std::vector<Value> items, std::string_view name) {
  auto list = new_list(std::move(items), SeqKind::kView);
  list->view = name;
  return std::shared_ptr<const List>(std::move(list));
}

Value make_dict(std::shared_ptr<Dict> dict) {
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value make_method(const Value& self, std::string_view name) {
  if (depth_of(self) >= kMaxNesting) {
    fault(fmt::format("values are nested deeper than {}", kMaxNesting));
  }
  auto method = std::make_shared<Callable>();
  method->name = name;
  method->self = self;
  return std::shared_ptr<const Callable>(std::move(method));
}

bool truthy(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
      return value.as_bool();
    case Type::kInt:
      return value.as_int() != 0;
    case Type::kFloat:
      return value.as_double() != 0.0;
    case Type::kString:
      return !value.as_string().empty();
    case Type::kList:
      return value.as_list().kind == SeqKind::kLazy || !value.as_list().items.empty();
    case Type::kDict:
      return !value.as_dict().entries.empty();
    case Type::kNamespace:
    case Type::kCallable:
    case Type::kLoop:
      return true;
  }
  return false;
}

bool equals(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) return exact(a) == exact(b);
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return true;
    case Type::kString:
      return a.as_string() == b.as_string();
    case Type::kList:
      return a.identity() == b.identity() || equal_sequences(a.as_list(), b.as_list(), budget);
    case Type::kDict:
      return a.identity() == b.identity() || equal_dicts(a.as_dict(), b.as_dict(), budget);
    default:
      return a.identity() == b.identity();
  }
}

bool less(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is(Type::kUndefined)) fault_undefined(a);
  if (b.is(Type::kUndefined)) fault_undefined(b);
  if (a.is_number() && b.is_number()) return exact(a) < exact(b);
  // UTF-8 sorts by code point.
  if (a.is(Type::kString) && b.is(Type::kString)) return a.as_string() < b.as_string();
  if (a.is(Type::kList) && b.is(Type::kList) && a.as_list().kind == b.as_list().kind &&
      a.as_list().kind <= SeqKind::kTuple) {
    const std::vector<Value>& x = a.as_list().items;
    const std::vector<Value>& y = b.as_list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equals(x[i], y[i], budget)) return less(x[i], y[i], budget);
    }
    return x.size() < y.size();
  }
  fault(fmt::format("cannot order '{}' and '{}'", type_name(a), type_name(b)));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (container.is(Type::kString)) {
    if (!item.is(Type::kString)) {
      fault(fmt::format("'in <string>' needs a string on the left, not '{}'", type_name(item)));
    }
    charge_search(container.as_string(), item.as_string(), budget);
    return container.as_string().find(item.as_string()) != std::string::npos;
  }
  if (container.is(Type::kDict)) return container.as_dict().find(item, budget) != nullptr;
  const auto items = iterate(container, budget);
  if (!items) fault(fmt::format("'in' needs a container, not '{}'", type_name(container)));
  return std::any_of(items->begin(), items->end(),
                     [&](const Value& v) { return equals(v, item, budget); });
}

std::string hash_key(const Value& value, Budget& budget) {
  budget.step();
  switch (value.type()) {
    case Type::kUndefined:
      return "u";
    case Type::kNone:
      return "n";
    case Type::kBool:
    case Type::kInt:
      return fmt::format("i{}", value.as_int());
    case Type::kFloat: {
      const double v = value.as_double();
      if (v == std::floor(v) && std::fabs(v) < 0x1p62) {
        return fmt::format("i{}", static_cast<int64_t>(v));
      }
      return fmt::format("f{}", float_repr(v));
    }
    case Type::kString:
      budget.bytes(static_cast<int64_t>(value.as_string().size()));
      return fmt::format("s{}", value.as_string());
    case Type::kList: {
      if (value.as_list().kind != SeqKind::kTuple) break;
      std::string key = "t";
      for (const Value& item : value.as_list().items) {
        const std::string part = hash_key(item, budget);
        key += std::to_string(part.size()) + ":" + part;
        budget.text(static_cast<int64_t>(key.size()));
        budget.bytes(static_cast<int64_t>(part.size()));
      }
      return key;
    }
    case Type::kNamespace:
    case Type::kCallable:
    case Type::kLoop:
      return fmt::format("p{}", value.identity());
    case Type::kDict:
      break;
  }
  fault(fmt::format("unhashable type: '{}'", type_name(value)));
}

std::optional<int64_t> length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return count_code_points(value.as_string());
    case Type::kList:
      if (value.as_list().kind == SeqKind::kLazy) return std::nullopt;
      return static_cast<int64_t>(value.as_list().items.size());
    case Type::kDict:
      return static_cast<int64_t>(value.as_dict().entries.size());
    case Type::kLoop:
      return value.as_loop().length();
    default:
      return std::nullopt;
  }
}

std::optional<std::vector<Value>> iterate(const Value& value, Budget& budget) {
  std::vector<Value> items;
  switch (value.type()) {
    case Type::kUndefined:
      return items;
    case Type::kString:
      budget.bytes(static_cast<int64_t>(value.as_string().size() * 4 * sizeof(Value)));
      for (const std::string_view c : code_points(value.as_string())) {
        items.emplace_back(std::string(c));
      }
      return items;
    case Type::kList:
      budget.bytes(static_cast<int64_t>(value.as_list().items.size() * sizeof(Value)));
      return value.as_list().items;
    case Type::kDict:
      budget.bytes(static_cast<int64_t>(value.as_dict().entries.size() * sizeof(Value)));
      for (const auto& [key, unused] : value.as_dict().entries) items.push_back(key);
      return items;
    case Type::kLoop:
      fault_unsupported("iterating over 'loop' is not supported");
    default:
      return std::nullopt;
  }
}

std::vector<Value> iterate_or_fault(const Value& value, Budget& budget) {
  auto items = iterate(value, budget);
  if (!items) fault(fmt::format("'{}' object is not iterable", type_name(value)));
  return std::move(*items);
}

std::string type_name(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      switch (value.as_list().kind) {
        case SeqKind::kList:
          return "list";
        case SeqKind::kTuple:
          return "tuple";
        case SeqKind::kRange:
          return "range";
        case SeqKind::kView:
          return std::string(value.as_list().view);
        case SeqKind::kLazy:
          return "generator";
      }
      return "list";
    case Type::kDict:
      return "dict";
    case Type::kNamespace:
      return "Namespace";
    case Type::kCallable:
      return value.as_callable().macro ? "Macro" : "function";
    case Type::kLoop:
      return "LoopContext";
  }
  return "object";
}

void fault_undefined(const Value& value) {
  fault(value.undefined_what());
}

}  // namespace deltacome::jinja
