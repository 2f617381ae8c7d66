// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "text/jinja_builtins.h"
#include "text/jinja_print.h"
#include "text/unicode_text.h"

namespace deltacome::jinja {
namespace {

/// The "a.b.0" of map, sort and the like; null or None: the item itself.
Value item_attribute(const Value& item, const Value* path, Budget& budget) {
  if (path == nullptr || path->is(Type::kNone)) return item;
  if (path->is_integral()) return get_item(item, *path, budget);
  if (!path->is(Type::kString)) fault("an attribute must be a name or an index");
  Value found = item;
  for (const std::string_view part : split_on(path->as_string(), ".", -1, false)) {
    const bool is_index =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    found = get_item(found,
                     is_index ? Value(static_cast<int64_t>(std::stoll(std::string(part))))
                              : Value(std::string(part)),
                     budget);
  }
  return found;
}

Value sort_key(const Value& item, const Value* path, bool case_sensitive, Budget& budget) {
  Value key = item_attribute(item, path, budget);
  if (!case_sensitive && key.is(Type::kString)) return Value(to_lower(key.as_string()));
  return key;
}

/// Stable, as Python's; `keys` belongs to `items`.
std::vector<Value> sort_by(const std::vector<Value>& items, const std::vector<Value>& keys,
                           bool descending, Budget& budget) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return descending ? less(keys[b], keys[a], budget) : less(keys[a], keys[b], budget);
  });
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(items[i]);
  return sorted;
}

void refuse_attribute_list(const Value* path) {
  if (path && path->is(Type::kString) && path->as_string().find(',') != std::string::npos) {
    fault_unsupported("sorting by several attributes is not supported");
  }
}

Value filter_join(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("join", args, {"d", "attribute"});
  std::vector<std::string> parts;
  int64_t total = 0;
  for (const Value& item : iterate_or_fault(input, budget)) {
    parts.push_back(to_text(item_attribute(item, bound.get(1), budget), budget));
    total += static_cast<int64_t>(parts.back().size());
    budget.text(total);
  }
  return Value(join_texts(bound.get(0) ? to_text(*bound.get(0), budget) : "", parts, budget));
}

Value filter_first(const Value& input, const Args& args, Budget& budget) {
  const Bound none("first", args, {});
  const std::vector<Value> items = iterate_or_fault(input, budget);
  return items.empty() ? Value::undefined("no first item, the sequence was empty") : items.front();
}

Value filter_last(const Value& input, const Args& args, Budget& budget) {
  const Bound none("last", args, {});
  if (input.is(Type::kList) && input.as_list().kind == SeqKind::kLazy) {
    fault("'generator' object is not reversible; pipe it through 'list'");
  }
  const std::vector<Value> items = iterate_or_fault(input, budget);
  return items.empty() ? Value::undefined("no last item, the sequence was empty") : items.back();
}

Value filter_list(const Value& input, const Args& args, Budget& budget) {
  const Bound none("list", args, {});
  return make_list(iterate_or_fault(input, budget));
}

Value filter_reverse(const Value& input, const Args& args, Budget& budget) {
  const Bound none("reverse", args, {});
  std::vector<Value> items = iterate_or_fault(input, budget);
  std::reverse(items.begin(), items.end());
  if (!input.is(Type::kString)) {
    const bool copied = (input.is(Type::kList) && input.as_list().kind == SeqKind::kLazy);
    return make_list(std::move(items), copied ? SeqKind::kList : SeqKind::kLazy);
  }
  std::string text;
  for (const Value& c : items) text += c.as_string();
  return Value(std::move(text));
}

Value filter_items(const Value& input, const Args& args, Budget& budget) {
  const Bound none("items", args, {});
  std::vector<Value> pairs;
  if (input.is(Type::kUndefined)) return make_list({}, SeqKind::kLazy);
  if (!input.is(Type::kDict)) fault("can only get item pairs from a mapping");
  budget.bytes(static_cast<int64_t>(input.as_dict().entries.size() * 4 * sizeof(Value)));
  for (const auto& [key, value] : input.as_dict().entries) {
    pairs.push_back(make_list({key, value}, SeqKind::kTuple));
  }
  return make_list(std::move(pairs), SeqKind::kLazy);
}

Value filter_dictsort(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.get(1) ? bound.text(1) : "key";
  if (by != "key" && by != "value") fault("dictsort sorts by either 'key' or 'value'");
  if (input.is(Type::kUndefined)) fault_undefined(input);
  if (!input.is(Type::kDict))
    fault(fmt::format("dictsort needs a dict, not '{}'", type_name(input)));
  std::vector<Value> pairs = filter_items(input, {}, budget).as_list().items;
  const Value position(int64_t{by == "value"});
  std::vector<Value> keys;
  for (const Value& pair : pairs) {
    keys.push_back(sort_key(pair, &position, bound.flag(0, false), budget));
  }
  return make_list(sort_by(pairs, keys, bound.flag(2, false), budget));
}

Value filter_sort(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  refuse_attribute_list(bound.get(2));
  const std::vector<Value> items = iterate_or_fault(input, budget);
  std::vector<Value> keys;
  for (const Value& item : items) {
    keys.push_back(sort_key(item, bound.get(2), bound.flag(1, false), budget));
  }
  return make_list(sort_by(items, keys, bound.flag(0, false), budget));
}

Value filter_unique(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("unique", args, {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> items;
  for (const Value& item : iterate_or_fault(input, budget)) {
    const Value key = sort_key(item, bound.get(1), bound.flag(0, false), budget);
    if (seen.find(key, budget)) continue;
    seen.set(key, None{}, budget);
    items.push_back(item);
  }
  return make_list(std::move(items), SeqKind::kLazy);
}

template <bool want_max>
Value filter_extreme(const Value& input, const Args& args, Budget& budget) {
  const Bound bound(want_max ? "max" : "min", args, {"case_sensitive", "attribute"});
  const std::vector<Value> items = iterate_or_fault(input, budget);
  if (items.empty()) return Value::undefined("no aggregated item, the sequence was empty");
  size_t best = 0;
  Value best_key = sort_key(items[0], bound.get(1), bound.flag(0, false), budget);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = sort_key(items[i], bound.get(1), bound.flag(0, false), budget);
    if (want_max ? less(best_key, key, budget) : less(key, best_key, budget)) {
      best = i;
      best_key = std::move(key);
    }
  }
  return items[best];
}

Value filter_sum(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("sum", args, {"attribute", "start"});
  Value total = bound.get(1) ? *bound.get(1) : Value(int64_t{0});
  if (total.is(Type::kString)) fault("strings cannot be summed; use join");
  for (const Value& item : iterate_or_fault(input, budget)) {
    total = binary_operation("+", total, item_attribute(item, bound.get(0), budget), budget);
    if (total.is(Type::kList)) {
      budget.bytes(static_cast<int64_t>(total.as_list().items.size() * sizeof(Value)));
    }
  }
  return total;
}

Value filter_batch(const Value& input, const Args& args, Budget& budget) {
  const Bound bound("batch", args, {"linecount", "fill_with"});
  const int64_t width = bound.required(0).is_integral() ? bound.integer(0, 0) : 0;
  if (width <= 0) fault_unsupported("'batch' needs a positive count");
  std::vector<Value> rows;
  std::vector<Value> row;
  for (const Value& item : iterate_or_fault(input, budget)) {
    if (static_cast<int64_t>(row.size()) == width) {
      rows.push_back(make_list(std::exchange(row, {})));
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (bound.given(1)) {
      const int64_t missing = width - static_cast<int64_t>(row.size());
      budget.step(missing);
      row.insert(row.end(), static_cast<size_t>(missing), *bound.get(1));
    }
    rows.push_back(make_list(std::move(row)));
  }
  return make_list(std::move(rows), SeqKind::kLazy);
}

Value filter_map(const Value& input, const Args& args, Budget& budget) {
  std::vector<Value> items = iterate_or_fault(input, budget);
  if (args.plain.empty()) {
    const Bound bound("map", args, {"attribute", "default"});
    for (Value& item : items) {
      item = item_attribute(item, &bound.required(0), budget);
      if (item.is(Type::kUndefined) && bound.given(1)) item = *bound.get(1);
    }
    return make_list(std::move(items), SeqKind::kLazy);
  }
  if (!args.plain[0].is(Type::kString)) fault("map needs the name of a filter");
  const std::string& name = args.plain[0].as_string();
  if (!is_filter(name)) {
    fault_unsupported(fmt::format("the construct '|{}' is not supported; supported are {}", name,
                                  filter_names()));
  }
  const Args rest{{args.plain.begin() + 1, args.plain.end()}, args.named};
  if (name == "map" || name == "sum") fault_unsupported("map of map or sum is not supported");
  for (Value& item : items) item = apply_filter(name, item, rest, budget);
  return make_list(std::move(items), SeqKind::kLazy);
}

/// select, reject, selectattr and rejectattr.
template <bool keep, bool by_attribute>
Value filter_select(const Value& input, const Args& args, Budget& budget) {
  constexpr size_t kFirst = by_attribute ? 1 : 0;
  if (args.plain.size() < kFirst) fault("missing parameter for attribute name");
  std::string test;
  Args rest;
  if (args.plain.size() > kFirst) {
    if (!args.plain[kFirst].is(Type::kString)) fault("select needs the name of a test");
    test = args.plain[kFirst].as_string();
    rest = {{args.plain.begin() + kFirst + 1, args.plain.end()}, args.named};
  }
  std::vector<Value> kept;
  for (const Value& item : iterate_or_fault(input, budget)) {
    const Value subject = by_attribute ? item_attribute(item, &args.plain[0], budget) : item;
    const bool passes = test.empty() ? truthy(subject) : apply_test(test, subject, rest, budget);
    if (passes == keep) kept.push_back(item);
  }
  return make_list(std::move(kept), SeqKind::kLazy);
}

using FilterFunction = Value (*)(const Value& input, const Args& args, Budget& budget);

struct Filter {
  std::string_view name;
  FilterFunction function;
};

constexpr std::array<Filter, 18> kSequenceFilters{{
    {"join", filter_join},
    {"first", filter_first},
    {"last", filter_last},
    {"list", filter_list},
    {"reverse", filter_reverse},
    {"items", filter_items},
    {"dictsort", filter_dictsort},
    {"sort", filter_sort},
    {"unique", filter_unique},
    {"min", filter_extreme<false>},
    {"max", filter_extreme<true>},
    {"sum", filter_sum},
    {"batch", filter_batch},
    {"map", filter_map},
    {"select", filter_select<true, false>},
    {"reject", filter_select<false, false>},
    {"selectattr", filter_select<true, true>},
    {"rejectattr", filter_select<false, true>},
}};

}  // namespace

Bound::Bound(std::string_view function, const Args& args,
             std::initializer_list<std::string_view> parameters)
    : function_(function), parameters_(parameters), values_(parameters.size(), nullptr) {
  if (args.plain.size() > values_.size()) {
    fault(fmt::format("{}() takes at most {} arguments, got {}", function, values_.size(),
                      args.plain.size()));
  }
  for (size_t i = 0; i < args.plain.size(); ++i) values_[i] = &args.plain[i];
  for (const auto& [name, value] : args.named) {
    const auto at = static_cast<size_t>(std::find(parameters_.begin(), parameters_.end(), name) -
                                        parameters_.begin());
    if (at == values_.size()) fault(fmt::format("{}() takes no argument '{}'", function, name));
    if (values_[at]) fault(fmt::format("{}() got the argument '{}' twice", function, name));
    values_[at] = &value;
  }
}

const Value& Bound::required(size_t i) const {
  if (!values_[i]) fault(fmt::format("{}() needs the argument '{}'", function_, parameters_[i]));
  return *values_[i];
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!given(i)) return otherwise;
  if (!values_[i]->is_integral()) {
    fault(fmt::format("{}() needs an integer as '{}', not '{}'", function_, parameters_[i],
                      type_name(*values_[i])));
  }
  return values_[i]->as_int();
}

bool Bound::flag(size_t i, bool otherwise) const {
  return values_[i] ? truthy(*values_[i]) : otherwise;
}

const std::string& Bound::text(size_t i) const {
  if (!required(i).is(Type::kString)) {
    fault(fmt::format("{}() needs a string as '{}', not '{}'", function_, parameters_[i],
                      type_name(*values_[i])));
  }
  return values_[i]->as_string();
}

bool is_sequence_filter(std::string_view name) {
  return std::any_of(kSequenceFilters.begin(), kSequenceFilters.end(),
                     [&](const Filter& filter) { return filter.name == name; });
}

std::string sequence_filter_names() {
  std::string names;
  for (const Filter& filter : kSequenceFilters) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", filter.name);
  }
  return names;
}

Value apply_sequence_filter(std::string_view name, const Value& input, const Args& args,
                            Budget& budget) {
  for (const Filter& filter : kSequenceFilters) {
    if (filter.name == name) return filter.function(input, args, budget);
  }
  fault_unsupported(fmt::format("the construct '|{}' is not supported", name));
}

}  // namespace deltacome::jinja
