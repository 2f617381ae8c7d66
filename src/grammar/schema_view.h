// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace deltacome::grammar {

/// Keeps the order of members: properties are written in the schema's order.
using Json = nlohmann::ordered_json;

/// Schemas that must all hold. By address: what is made for them is made once.
using Schemas = std::vector<const Json*>;

/// Reads untrusted text; throws kInvalidArgument, `where` begins the message.
Json parse_json(std::string_view text, const std::string& where);
std::string shown(std::string_view text);  // for a message: on one line, shortened

/// One schema document: where its parts are, and what they say about each other.
class SchemaDocument {
 public:
  /// `name` stands for it in messages. Throws kInvalidArgument.
  SchemaDocument(std::string_view text, std::string name);

  const Json& root() const noexcept { return root_; }
  /// Throws kInvalidArgument: name, the JSON pointer of `part`, which is in the document, and what.
  [[noreturn]] void bad(const Json& part, std::string_view what) const;

  /// The ways in which all of `schemas` can hold: without $ref, allOf, anyOf and oneOf, which
  /// become more schemas or more ways. Every schema in them is an object whose keywords are known.
  std::vector<Schemas> alternatives(const Schemas& schemas);

 private:
  void conjoin(const Json& schema, std::vector<Schemas>& ways, int n_references);
  const Json& resolve(const Json& schema, const std::string& reference) const;
  void check_keywords(const Json& schema) const;

  std::string name_;
  Json root_;
  size_t n_steps_ = 0;
};

/// What plain schemas say together: the strictest of each keyword.
class Conjunction {
 public:
  Conjunction(const SchemaDocument& document, const Schemas& schemas)
      : document_(document), schemas_(schemas) {}

  const Schemas& schemas() const noexcept { return schemas_; }
  bool has(const char* keyword) const { return first_with(keyword) != nullptr; }
  /// The keyword's value where at most one schema may have it, or all the same; nullptr: none has.
  const Json* single(const char* keyword) const;
  /// A count: the largest or smallest of those given.
  std::optional<int64_t> count(const char* keyword, bool largest) const;
  /// Of `type`, or of what the other keywords are about; empty: nothing is left.
  std::vector<std::string> types() const;
  /// enum and const: the values that all allow, and of one of types().
  std::optional<Schemas> values() const;
  [[noreturn]] void bad(const char* keyword, std::string_view what) const;

 private:
  const Json* first_with(const char* keyword) const;

  const SchemaDocument& document_;
  const Schemas& schemas_;
};

bool is_of_type(const Json& value, std::string_view type);

}  // namespace deltacome::grammar
