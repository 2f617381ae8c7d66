// SPDX-License-Identifier: Apache-2.0
#include "server/keys.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "core/check.h"
#include "server/json_fields.h"

namespace deltacome::server {
namespace {

constexpr int64_t kMaxFileBytes = 16 << 20;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<Digest> parse_digest(std::string_view hex) {
  Digest out;
  if (hex.size() != 2 * out.size()) return std::nullopt;
  for (size_t i = 0; i < out.size(); ++i) {
    const int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return out;
}

/// A misspelt limit must not be no limit.
void check_names(const Json& object, std::initializer_list<std::string_view> known,
                 const std::string& where) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw ApiError(400, fmt::format("{} has the unknown field {}", where, describe(Json(name))));
  }
}

Caller read_caller(const Fields& fields) {
  Caller out;
  out.tenant = fields.need_string("name");
  out.tenant = fields.string("tenant").value_or(out.tenant);
  out.admin = fields.boolean("admin").value_or(false);
  if (const auto weight = fields.number("weight")) {
    if (!(*weight >= 1e-3 && *weight <= 1e3))
      fields.fail("weight", *fields.find("weight"), "a number from 0.001 to 1000");
    out.weight = *weight;
  }
  out.variants = fields.strings("variants");
  constexpr int64_t kMost = int64_t{1} << 40;
  out.requests_per_minute = fields.integer("requests_per_minute", 1, kMost);
  out.tokens_per_minute = fields.integer("tokens_per_minute", 1, kMost);
  out.max_concurrent = fields.integer("max_concurrent", 1, kMost);
  return out;
}

}  // namespace

Digest sha256(std::string_view text) {
  Digest out;
  DELTACOME_CHECK(EVP_Digest(text.data(), text.size(), out.data(), nullptr, EVP_sha256(), nullptr));
  return out;
}

bool Caller::may_use(std::string_view variant, std::string_view base_name) const {
  if (variants.empty()) return true;
  const std::string_view name = variant.empty() ? base_name : variant;
  return std::any_of(variants.begin(), variants.end(), [&](std::string_view pattern) {
    if (!pattern.ends_with('*')) return pattern == name;
    return name.starts_with(pattern.substr(0, pattern.size() - 1));
  });
}

Keys Keys::parse(std::string_view text, const std::string& where) {
  Keys out;
  try {
    const Json json = parse_json_object(text);
    check_names(json, {"keys"}, "the file");
    const Fields fields(json);
    const Json* keys = fields.array("keys");
    if (keys == nullptr) throw ApiError(400, "\"keys\" is missing, expected an array");
    std::set<Digest> seen;
    for (size_t i = 0; i < keys->size(); ++i) {
      const std::string entry = fmt::format("keys[{}]", i);
      const Fields key((*keys)[i], entry);
      check_names((*keys)[i],
                  {"name", "sha256", "tenant", "admin", "weight", "variants", "requests_per_minute",
                   "tokens_per_minute", "max_concurrent"},
                  entry);
      const std::optional<Digest> digest = parse_digest(key.need_string("sha256"));
      if (!digest) key.fail("sha256", *key.find("sha256"), "64 hexadecimal digits");
      if (!seen.insert(*digest).second)
        throw ApiError(400, fmt::format("{} has the key of another entry", entry));
      out.entries_.push_back({*digest, std::make_shared<const Caller>(read_caller(key))});
    }
  } catch (const ApiError& error) {
    fail(ErrorCode::kCorrupt, "{}: {}", where, error.what());
  }
  return out;
}

Keys Keys::load(const std::filesystem::path& file) {
  const std::string where = fmt::format("keys file \"{}\"", file.string());
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(ErrorCode::kNotFound, "{}: cannot be opened", where);
  std::string text(static_cast<size_t>(kMaxFileBytes) + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) fail(ErrorCode::kIo, "{}: cannot be read", where);
  text.resize(static_cast<size_t>(in.gcount()));
  if (static_cast<int64_t>(text.size()) > kMaxFileBytes)
    fail(ErrorCode::kCorrupt, "{}: larger than {} bytes", where, kMaxFileBytes);
  return parse(text, where);
}

std::shared_ptr<const Caller> Keys::find(std::string_view authorization) const {
  constexpr std::string_view kBearer = "bearer ";
  const bool bearer = authorization.size() > kBearer.size() &&
                      std::equal(kBearer.begin(), kBearer.end(), authorization.begin(),
                                 [](char a, char b) { return a == (b | 0x20) || a == b; });
  if (!bearer) return nullptr;
  const Digest digest = sha256(authorization.substr(kBearer.size()));
  std::shared_ptr<const Caller> found;
  for (const Entry& entry : entries_)  // no early end, and no early difference
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = entry.caller;
  return found;
}

}  // namespace deltacome::server
