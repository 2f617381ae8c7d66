// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace deltacome::jinja {

/// The arguments of a call, a filter or a test.
struct Args {
  std::vector<Value> plain;
  std::vector<std::pair<std::string, Value>> named;
};

/// Arguments matched to parameter names, Python's way. A fault for too many or unknown ones.
class Bound {
 public:
  Bound(std::string_view function, const Args& args,
        std::initializer_list<std::string_view> parameters);
  const Value* get(size_t i) const { return values_[i]; }  // null if not given
  const Value& required(size_t i) const;
  int64_t integer(size_t i, int64_t otherwise) const;
  bool flag(size_t i, bool otherwise) const;
  const std::string& text(size_t i) const;  // required
  bool given(size_t i) const { return values_[i] && !values_[i]->is(Type::kNone); }

 private:
  std::string function_;
  std::vector<std::string_view> parameters_;
  std::vector<const Value*> values_;
};

bool is_filter(std::string_view name);
std::string filter_names();
Value apply_filter(std::string_view name, const Value& input, const Args& args, Budget& budget);

/// The part of the filters that works on sequences; used by the three above.
bool is_sequence_filter(std::string_view name);
std::string sequence_filter_names();
Value apply_sequence_filter(std::string_view name, const Value& input, const Args& args,
                            Budget& budget);

bool is_test(std::string_view name);
std::string test_names();
bool apply_test(std::string_view name, const Value& input, const Args& args, Budget& budget);

/// object.name and object[key]: undefined where there is none, a fault on undefined.
Value get_attribute(const Value& object, const std::string& name, Budget& budget);
Value get_item(const Value& object, const Value& key, Budget& budget);
/// object[begin:end:step] of these four; None where a bound was left out.
Value get_slice(const std::vector<Value>& operands, Budget& budget);
/// + - * / // % **
Value binary_operation(std::string_view op, const Value& left, const Value& right, Budget& budget);
Value negate(const Value& operand);
Value unary_plus(const Value& operand);
int64_t multiply_exactly(int64_t a, int64_t b);  // a fault beyond 64 bits

Value make_range(const Args& args);                 // range()
std::string local_time(const std::string& format);  // strftime_now()
Value call_method(const Callable& method, const Args& args, Budget& budget);
/// What look-ups find on strings, lists and dicts; a fault for Python's methods that are missing.
Value find_method(const Value& self, const std::string& name);
/// "%s" % values, of which %s, %r, %d, %i and %% are known.
std::string format_percent(const std::string& format, const std::vector<Value>& values,
                           Budget& budget);
std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t max_count, Budget& budget);
std::string join_texts(std::string_view separator, const std::vector<std::string>& parts,
                       Budget& budget);

}  // namespace deltacome::jinja
