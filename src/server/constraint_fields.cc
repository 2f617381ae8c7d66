// SPDX-License-Identifier: Apache-2.0
#include "server/constraint_fields.h"

#include <fmt/format.h>

namespace deltacome::server {
namespace {

using Kind = Constraint::Kind;

/// Keeps what has been asked for, and refuses a second wish.
class Collector {
 public:
  void set(Kind kind, std::string field, std::string text, std::vector<std::string> choices = {}) {
    if (constraint)
      throw ApiError(
          400,
          fmt::format("\"{}\" and \"{}\" both constrain the answer, expected one", field_, field),
          field);
    constraint = {.kind = kind, .text = std::move(text), .choices = std::move(choices)};
    field_ = std::move(field);
  }
  std::optional<Constraint> constraint = {};

 private:
  std::string field_ = {};  // that asked for it
};

/// A schema as an object, or as vLLM also takes it: as text.
std::string schema_text(const Fields& fields, const char* name) {
  const Json& value = *fields.find(name);
  if (value.is_object() || value.is_boolean()) return to_text(value);
  if (!value.is_string()) fields.fail(name, value, "a JSON schema");
  return to_text(parse_json_object(value.get_ref<const std::string&>()));
}

std::vector<std::string> choices_of(const Fields& fields, const char* name) {
  const std::vector<std::string> choices = fields.strings(name);
  if (choices.empty()) fields.fail(name, *fields.find(name), "one or more strings");
  return choices;
}

void read_response_format(const Fields& fields, Collector& out) {
  const Json* format = fields.object("response_format");
  if (format == nullptr) return;
  const Fields inner(*format, "response_format");
  const std::string type = inner.need_string("type");
  if (type == "text") return;
  if (type == "json_object") return out.set(Kind::kJsonObject, "response_format", {});
  if (type != "json_schema")
    inner.fail("type", *inner.find("type"), "\"text\", \"json_object\" or \"json_schema\"");
  const Json* schema = inner.object("json_schema");
  if (schema == nullptr)
    throw ApiError(400, "\"response_format.json_schema\" is missing, expected an object",
                   "response_format.json_schema");
  const Fields named(*schema, "response_format.json_schema");
  if (!named.has("schema"))
    throw ApiError(400, "\"response_format.json_schema.schema\" is missing, expected a JSON schema",
                   "response_format.json_schema.schema");
  out.set(Kind::kJsonSchema, "response_format", schema_text(named, "schema"));
}

/// The wishes under the names of one generation of vLLM's fields.
void read_guided(const Fields& fields, const std::string& prefix, Collector& out) {
  const auto asks = [&](const char* suffix) { return fields.has((prefix + suffix).c_str()); };
  const auto name = [&](const char* suffix) { return prefix + suffix; };
  if (asks("json"))
    out.set(Kind::kJsonSchema, fields.path(name("json").c_str()),
            schema_text(fields, name("json").c_str()));
  if (fields.boolean(name("json_object").c_str()).value_or(false))
    out.set(Kind::kJsonObject, fields.path(name("json_object").c_str()), {});
  if (asks("regex"))
    out.set(Kind::kRegex, fields.path(name("regex").c_str()),
            fields.need_string(name("regex").c_str()));
  if (asks("choice"))
    out.set(Kind::kChoice, fields.path(name("choice").c_str()), {},
            choices_of(fields, name("choice").c_str()));
  if (asks("grammar"))
    throw ApiError(400,
                   fmt::format("\"{}\" is not supported, expected a JSON schema, a regular "
                               "expression or choices",
                               fields.path(name("grammar").c_str())),
                   fields.path(name("grammar").c_str()));
}

}  // namespace

std::optional<Constraint> read_constraint(const Fields& fields) {
  Collector out;
  read_response_format(fields, out);
  read_guided(fields, "guided_", out);
  if (const Json* outputs = fields.object("structured_outputs"))
    read_guided(Fields(*outputs, "structured_outputs"), "", out);
  return std::move(out.constraint);
}

}  // namespace deltacome::server
