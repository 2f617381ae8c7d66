// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_json.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/utf8.h"

namespace deltacome {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;                 // files in use have at most 8
constexpr size_t kMaxAddedTokenBytes = 4096;  // bounds the work at one place of a text

[[noreturn]] void bad(std::string_view where, std::string_view expected, const Json& got) {
  fail(ErrorCode::kCorrupt, "{} must be {}, got {}", where, expected, got.type_name());
}

[[noreturn]] void unsupported(std::string_view where, std::string_view type,
                              std::string_view supported) {
  fail(ErrorCode::kUnsupported, "{} {} is not supported; supported are {}", where, in_quotes(type),
       supported);
}

const Json& check_object(const Json& value, std::string_view where) {
  if (!value.is_object()) bad(where, "an object", value);
  return value;
}

/// The member, or nullptr if it is absent or null.
const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const Json& require(const Json& object, const char* key, std::string_view where) {
  const Json* value = find(object, key);
  if (value == nullptr) fail(ErrorCode::kCorrupt, "{} has no \"{}\"", where, key);
  return *value;
}

const Json& require_array(const Json& object, const char* key, std::string_view where) {
  const Json& value = require(object, key, where);
  if (!value.is_array()) bad(fmt::format("{}.{}", where, key), "an array", value);
  return value;
}

const std::string& as_string(const Json& value, std::string_view where) {
  if (!value.is_string()) bad(where, "a string", value);
  return value.get_ref<const std::string&>();
}

const std::string& require_string(const Json& object, const char* key, std::string_view where) {
  return as_string(require(object, key, where), fmt::format("{}.{}", where, key));
}

bool bool_or(const Json& object, const char* key, bool otherwise, std::string_view where) {
  const Json* value = find(object, key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) bad(fmt::format("{}.{}", where, key), "true or false", *value);
  return value->get<bool>();
}

TokenId as_id(const Json& value, std::string_view where) {
  constexpr uint64_t kMax = std::numeric_limits<TokenId>::max();
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMax) {
    fail(ErrorCode::kCorrupt, "{} must be an integer from 0 to {}, got {}", where, kMax,
         value.is_number() ? value.dump() : value.type_name());
  }
  return static_cast<TokenId>(value.get<uint64_t>());
}

const std::string& type_of(const Json& value, std::string_view where) {
  return require_string(check_object(value, where), "type", where);
}

/// {"String": s} or {"Regex": s}.
Pattern read_pattern(const Json& object, std::string_view where) {
  const std::string at = fmt::format("{}.pattern", where);
  const Json& pattern = check_object(require(object, "pattern", where), at);
  if (find(pattern, "Regex") != nullptr) {
    return Pattern::regex(require_string(pattern, "Regex", at));
  }
  const std::string& text = require_string(pattern, "String", at);
  if (text.empty()) fail(ErrorCode::kUnsupported, "{} is an empty string", at);
  return Pattern::literal(text);
}

std::string read_character(const Json& object, const char* key, std::string_view where) {
  const std::string& text = require_string(object, key, where);
  if (text.empty() || static_cast<size_t>(utf8_size(text[0])) != text.size()) {
    fail(ErrorCode::kCorrupt, "{}.{} must be one character, got {}", where, key, in_quotes(text));
  }
  return text;
}

/// Calls read(element, its path) for each element, or for the parts of a "Sequence".
template <class Read>
void for_each_part(const Json& value, const std::string& where, const char* parts_key,
                   const Read& read) {
  if (type_of(value, where) != "Sequence") return read(value, where);
  const Json& parts = require_array(value, parts_key, where);
  for (size_t i = 0; i < parts.size(); ++i) {
    for_each_part(parts[i], fmt::format("{}.{}[{}]", where, parts_key, i), parts_key, read);
  }
}

// ---- model

std::vector<std::pair<std::string, TokenId>> read_vocabulary(const Json& model) {
  const Json& vocab = check_object(require(model, "vocab", "model"), "model.vocab");
  std::vector<std::pair<std::string, TokenId>> entries;
  entries.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_unsigned()) {
      as_id(id, fmt::format("the id of {} in model.vocab", in_quotes(token)));
    }
    entries.emplace_back(token, as_id(id, "an id in model.vocab"));
  }
  return entries;
}

/// Merges are pairs or, in older files, strings "a b".
std::vector<Bpe::Merge> read_merges(const Json& model) {
  const Json& merges = require_array(model, "merges", "model");
  std::vector<Bpe::Merge> out;
  out.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string where = fmt::format("model.merges[{}]", i);
    if (!merge.is_string()) bad(where, "two strings or one \"a b\"", merge);
    const std::string& text = merge.get_ref<const std::string&>();
    if (text.starts_with("#version")) continue;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail(ErrorCode::kCorrupt, "{} must have one space, got {}", where, in_quotes(text));
    }
    out.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return out;
}

Bpe read_model(const Json& root) {
  const Json& model = check_object(require(root, "model", "the file"), "model");
  // Files of 2019 and 2020 have no type; only BPE has merges.
  const bool untyped = find(model, "type") == nullptr && find(model, "merges") != nullptr;
  if (!untyped && type_of(model, "model") != "BPE") {
    unsupported("model type", type_of(model, "model"), "BPE");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (find(model, key) != nullptr && !require_string(model, key, "model").empty()) {
      fail(ErrorCode::kUnsupported, "model.{} {} is not supported; supported are null and \"\"",
           key, in_quotes(require_string(model, key, "model")));
    }
  }
  if (const Json* dropout = find(model, "dropout")) {
    if (!dropout->is_number()) bad("model.dropout", "a number", *dropout);
    if (dropout->get<double>() != 0) {
      fail(ErrorCode::kUnsupported, "model.dropout {} is not supported; supported are null and 0",
           dropout->dump());
    }
  }
  BpeOptions options;
  options.byte_fallback = bool_or(model, "byte_fallback", false, "model");
  options.fuse_unk = bool_or(model, "fuse_unk", false, "model");
  options.ignore_merges = bool_or(model, "ignore_merges", false, "model");
  if (find(model, "unk_token") != nullptr) {
    options.unk_token = require_string(model, "unk_token", "model");
  }
  return Bpe(Vocabulary(read_vocabulary(model)), read_merges(model), options);
}

// ---- added tokens

AddedTokens read_added_tokens(const Json& root, const Vocabulary& vocabulary,
                              const Normalizer& normalizer) {
  std::vector<AddedToken> tokens;
  std::vector<std::pair<std::string, TokenId>> seen;
  if (find(root, "added_tokens") == nullptr) return AddedTokens({}, normalizer);
  const Json& list = require_array(root, "added_tokens", "the file");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("added_tokens[{}]", i);
    const Json& entry = check_object(list[i], where);
    AddedToken token;
    token.id = as_id(require(entry, "id", where), where + ".id");
    token.content = require_string(entry, "content", where);
    token.single_word = bool_or(entry, "single_word", false, where);
    token.lstrip = bool_or(entry, "lstrip", false, where);
    token.rstrip = bool_or(entry, "rstrip", false, where);
    token.special = bool_or(entry, "special", false, where);
    token.normalized = bool_or(entry, "normalized", !token.special, where);
    if (token.content.empty()) continue;  // as `tokenizers` does
    if (token.content.size() > kMaxAddedTokenBytes) {
      fail(ErrorCode::kUnsupported, "{}.content has {} bytes, at most {} are supported", where,
           token.content.size(), kMaxAddedTokenBytes);
    }
    const std::optional<TokenId> known = vocabulary.id_of(token.content);
    const std::string* other = vocabulary.token_of(token.id);
    if (known && *known != token.id) {
      fail(ErrorCode::kCorrupt, "{}: {} has id {}, but {} in model.vocab", where,
           in_quotes(token.content), token.id, *known);
    }
    if (other != nullptr && *other != token.content) {
      fail(ErrorCode::kCorrupt, "{}: {} has id {}, which is {} in model.vocab", where,
           in_quotes(token.content), token.id, in_quotes(*other));
    }
    seen.emplace_back(token.content, token.id);
    tokens.push_back(std::move(token));
  }
  try {
    Vocabulary distinct(std::move(seen));
  } catch (const Error& error) {
    fail(error.code(), "added_tokens: {}", error.what());
  }
  return AddedTokens(std::move(tokens), normalizer);
}

// ---- normalizer

NormalizerStep read_normalizer_step(const Json& value, const std::string& where) {
  const std::string& type = type_of(value, where);
  if (type == "Prepend") return PrependStep{require_string(value, "prepend", where)};
  if (type == "Replace") {
    return ReplaceStep{read_pattern(value, where), require_string(value, "content", where)};
  }
  if (type == "NFC") return UnicodeForm::kNfc;
  if (type == "NFD") return UnicodeForm::kNfd;
  if (type == "NFKC") return UnicodeForm::kNfkc;
  if (type == "NFKD") return UnicodeForm::kNfkd;
  if (type == "Lowercase") return LowercaseStep{};
  if (type == "Strip") {
    return StripStep{bool_or(value, "strip_left", true, where),
                     bool_or(value, "strip_right", true, where)};
  }
  unsupported(where + " type", type,
              "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase and Strip");
}

Normalizer read_normalizer(const Json& root) {
  std::vector<NormalizerStep> steps;
  if (const Json* value = find(root, "normalizer")) {
    for_each_part(*value, "normalizer", "normalizers",
                  [&](const Json& part, const std::string& where) {
                    steps.push_back(read_normalizer_step(part, where));
                  });
  }
  return Normalizer(std::move(steps));
}

// ---- pre-tokenizer

SplitBehavior read_behavior(const Json& value, const std::string& where) {
  const std::string& name = require_string(value, "behavior", where);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  unsupported(where + ".behavior", name,
              "Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous");
}

/// The older add_prefix_space says the same as prepend_scheme "always" or "never".
MetaspaceStep::Prepend read_prepend(const Json& value, const std::string& where) {
  using Prepend = MetaspaceStep::Prepend;
  Prepend prepend = Prepend::kAlways;
  if (find(value, "prepend_scheme") != nullptr) {
    const std::string& name = require_string(value, "prepend_scheme", where);
    if (name == "first") {
      prepend = Prepend::kFirst;
    } else if (name == "never") {
      prepend = Prepend::kNever;
    } else if (name != "always") {
      unsupported(where + ".prepend_scheme", name, "always, first and never");
    }
  }
  return bool_or(value, "add_prefix_space", true, where) ? prepend : Prepend::kNever;
}

PreTokenizerStep read_pre_tokenizer_step(const Json& value, const std::string& where) {
  const std::string& type = type_of(value, where);
  if (type == "Split") {
    return SplitStep{read_pattern(value, where), read_behavior(value, where),
                     bool_or(value, "invert", false, where)};
  }
  if (type == "ByteLevel") {
    ByteLevelStep step{bool_or(value, "add_prefix_space", true, where), std::nullopt};
    if (bool_or(value, "use_regex", true, where)) step.pattern = Pattern::regex(kGpt2Pattern);
    return step;
  }
  if (type == "Metaspace") {
    return MetaspaceStep{read_character(value, "replacement", where), read_prepend(value, where),
                         bool_or(value, "split", true, where)};
  }
  if (type == "Digits") {
    return SplitStep{Pattern::regex(R"(\p{N})"),
                     bool_or(value, "individual_digits", false, where) ? SplitBehavior::kIsolated
                                                                       : SplitBehavior::kContiguous,
                     false};
  }
  if (type == "Whitespace") {
    // \w of Rust's regex crate.
    constexpr std::string_view kPattern =
        R"([\p{Alphabetic}\p{L}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|)"
        R"([^\p{Alphabetic}\p{L}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\s]+)";
    return SplitStep{Pattern::regex(kPattern), SplitBehavior::kRemoved, true};
  }
  if (type == "WhitespaceSplit") {
    return SplitStep{Pattern::regex(R"(\s)"), SplitBehavior::kRemoved, false};
  }
  unsupported(where + " type", type,
              "Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace and WhitespaceSplit");
}

PreTokenizer read_pre_tokenizer(const Json& root) {
  std::vector<PreTokenizerStep> steps;
  if (const Json* value = find(root, "pre_tokenizer")) {
    for_each_part(*value, "pre_tokenizer", "pretokenizers",
                  [&](const Json& part, const std::string& where) {
                    steps.push_back(read_pre_tokenizer_step(part, where));
                  });
  }
  return PreTokenizer(std::move(steps));
}

// ---- post-processor

Template read_template(const Json& value, const std::string& where) {
  Template items;
  const Json& single = require_array(value, "single", where);
  for (size_t i = 0; i < single.size(); ++i) {
    const std::string at = fmt::format("{}.single[{}]", where, i);
    const Json& item = check_object(single[i], at);
    if (const Json* sequence = find(item, "Sequence")) {
      const std::string& id = require_string(check_object(*sequence, at), "id", at);
      if (id != "A")
        fail(ErrorCode::kCorrupt, "{}: sequence {}, expected \"A\"", at, in_quotes(id));
      items.push_back({true, {}});
      continue;
    }
    const Json& special = check_object(require(item, "SpecialToken", at), at);
    const std::string& id = require_string(special, "id", at);
    const std::string table_at = where + ".special_tokens";
    const Json& table = check_object(require(value, "special_tokens", where), table_at);
    const Json& entry = require(table, id.c_str(), table_at);
    TemplateItem fixed{false, {}};
    for (const Json& token : require_array(check_object(entry, table_at), "ids", table_at)) {
      fixed.ids.push_back(as_id(token, table_at + ".ids"));
    }
    items.push_back(std::move(fixed));
  }
  return items;
}

PostProcessor read_post_processor(const Json& root) {
  std::vector<Template> templates;
  if (const Json* value = find(root, "post_processor")) {
    for_each_part(
        *value, "post_processor", "processors", [&](const Json& part, const std::string& where) {
          const std::string& type = type_of(part, where);
          if (type == "ByteLevel") return;  // it trims offsets, which are not computed
          if (type != "TemplateProcessing") {
            unsupported(where + " type", type, "Sequence, TemplateProcessing and ByteLevel");
          }
          templates.push_back(read_template(part, where));
        });
  }
  return PostProcessor(std::move(templates));
}

// ---- decoder

DecoderStep read_decoder_step(const Json& value, const std::string& where) {
  const std::string& type = type_of(value, where);
  if (type == "ByteLevel") return ByteLevelDecoder{};
  if (type == "ByteFallback") return ByteFallbackDecoder{};
  if (type == "Fuse") return FuseDecoder{};
  if (type == "Replace") {
    return ReplaceDecoder{read_pattern(value, where), require_string(value, "content", where)};
  }
  if (type == "Strip") {
    return StripDecoder{
        read_character(value, "content", where),
        static_cast<size_t>(as_id(require(value, "start", where), where + ".start")),
        static_cast<size_t>(as_id(require(value, "stop", where), where + ".stop"))};
  }
  if (type == "Metaspace") {
    return MetaspaceDecoder{read_character(value, "replacement", where),
                            read_prepend(value, where) != MetaspaceStep::Prepend::kNever};
  }
  unsupported(where + " type", type,
              "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip and Metaspace");
}

std::vector<DecoderStep> read_decoder(const Json& root) {
  std::vector<DecoderStep> steps;
  const Json* value = find(root, "decoder");
  if (value == nullptr) return {JoinDecoder{}};
  for_each_part(*value, "decoder", "decoders", [&](const Json& part, const std::string& where) {
    steps.push_back(read_decoder_step(part, where));
  });
  return steps;
}

/// Deep nesting would exhaust the stack of whoever walks the document.
void check_depth(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        fail(ErrorCode::kCorrupt, "byte {}: nested deeper than {} levels", i, kMaxDepth);
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

TokenizerParts read_parts(std::string_view text) {
  if (text.size() > kMaxTokenizerJsonBytes) {
    fail(ErrorCode::kUnsupported, "{} bytes, at most {} are supported", text.size(),
         kMaxTokenizerJsonBytes);
  }
  check_depth(text);
  Json root;
  try {
    root = Json::parse(text);
  } catch (const Json::exception& error) {
    fail(ErrorCode::kCorrupt, "not a JSON document: {}", error.what());
  }
  check_object(root, "the file");
  TokenizerParts parts{read_model(root),         read_normalizer(root),     {},
                       read_pre_tokenizer(root), read_post_processor(root), read_decoder(root)};
  parts.added_tokens = read_added_tokens(root, parts.bpe.vocabulary(), parts.normalizer);
  return parts;
}

}  // namespace

TokenizerParts read_tokenizer_json(std::string_view text, const std::string& name) {
  try {
    return read_parts(text);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", name, error.what()));
  }
}

}  // namespace deltacome
