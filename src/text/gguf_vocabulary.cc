// SPDX-License-Identifier: Apache-2.0
#include "text/gguf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "text/tokenizer.h"

namespace deltacome {
namespace {

using nlohmann::json;

enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

/// Patterns by which texts are split, and the names that llama.cpp knows them by.
struct KnownPattern {
  const char* name;
  const char* pattern;
  bool ignore_merges;  // what llama.cpp does with it
};
constexpr std::array<KnownPattern, 2> kKnownPatterns{
    {{"llama-bpe",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      true},
     {"qwen2",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      false}}};

/// The steps of a Sequence, or the one step that is there; none for null.
std::vector<json> steps_of(const json& root, const char* part, const char* list) {
  const json value = root.value(part, json());
  if (value.is_null()) return {};
  if (value.value("type", "") != "Sequence") return {value};
  return value.at(list).get<std::vector<json>>();
}

[[noreturn]] void fail_unknown(const std::string& where, const char* what) {
  fail(ErrorCode::kUnsupported,
       "{}: its {} is none that llama.cpp has a name for; known are those of Llama 2 and 3, "
       "Mistral, Qwen 2 and GPT-2",
       where, what);
}

std::string pre_tokenizer_name(const json& root, bool ignore_merges, const std::string& where,
                               std::vector<std::string>& notes) {
  const std::vector<json> steps = steps_of(root, "pre_tokenizer", "pretokenizers");
  const json& last = steps.back();  // ByteLevel
  if (steps.size() == 1 && last.value("use_regex", true)) return "gpt-2";
  if (steps.size() == 2 && steps[0].value("type", "") == "Split" &&
      steps[0].value("behavior", "") == "Isolated" && !last.value("use_regex", true)) {
    const std::string pattern = steps[0].at("pattern").value("Regex", "");
    for (const KnownPattern& known : kKnownPatterns) {
      if (pattern != known.pattern) continue;
      if (ignore_merges != known.ignore_merges) {
        notes.push_back(
            "llama.cpp splits words of the vocabulary that the merges do not reach otherwise than "
            "the tokenizer (ignore_merges)");
      }
      return known.name;
    }
  }
  fail_unknown(where, "pre-tokenizer");
}

/// Scores that make llama.cpp merge in the order of the merges: pieces by their first merge.
void set_scores(const std::vector<std::pair<std::string, std::string>>& merges,
                GgufVocabulary& out) {
  std::unordered_map<std::string, int64_t> order;  // piece -> its place
  bool grouped = true;                             // merges that make one piece follow each other
  std::string before;
  for (const auto& [left, right] : merges) {
    std::string piece = left + right;
    const bool is_new = order.emplace(piece, static_cast<int64_t>(order.size())).second;
    grouped = grouped && (is_new || piece == before);
    before = std::move(piece);
  }
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    const auto at = order.find(out.tokens[i]);
    const auto place = at == order.end() ? static_cast<int64_t>(order.size()) : at->second;
    out.scores[i] = out.types[i] == kNormal ? static_cast<float>(-1 - place) : 0;
  }
  // SentencePiece merges any two neighbours whose union is a piece; so must the merges.
  std::unordered_map<std::string, bool> known;
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    if (out.types[i] == kNormal) known[out.tokens[i]] = true;
  }
  std::set<std::pair<std::string, std::string>> listed;
  for (const auto& [left, right] : merges) listed.emplace(left, right);
  bool complete = true;
  for (const auto& [piece, ignored] : known) {
    for (size_t cut = 1; cut < piece.size() && complete; ++cut) {
      const std::string left = piece.substr(0, cut), right = piece.substr(cut);
      complete = !known.contains(left) || !known.contains(right) || listed.contains({left, right});
    }
  }
  if (!grouped || !complete) {
    out.notes.push_back(
        "the merges are not those of a SentencePiece model: llama.cpp may split some texts "
        "differently");
  }
}

bool is_byte_token(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
}

std::vector<std::pair<std::string, std::string>> merges_of(const json& model) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const json& merge : model.at("merges")) {
    if (merge.is_array()) {
      out.emplace_back(merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
    } else {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      out.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }
  return out;
}

/// Tokens and types by id; ids without a token stay unused ones.
void set_tokens(const json& root, const std::string& where, GgufVocabulary& out) {
  const auto n = static_cast<int64_t>(out.tokens.size());
  for (int64_t i = 0; i < n; ++i) out.tokens[static_cast<size_t>(i)] = fmt::format("[PAD{}]", i);
  const auto set = [&](int64_t id, const std::string& token, int32_t type) {
    if (id < 0 || id >= n) {
      fail(ErrorCode::kMismatch, "{}: token {} is beyond the model's {} embeddings", where, id, n);
    }
    out.tokens[static_cast<size_t>(id)] = token;
    out.types[static_cast<size_t>(id)] = type;
  };
  const json& model = root.at("model");
  const bool bytes = out.model == "llama";
  for (const auto& [token, id] : model.at("vocab").items())
    set(id.get<int64_t>(), token, bytes && is_byte_token(token) ? kByte : kNormal);
  for (const json& added : root.value("added_tokens", json::array())) {
    set(added.at("id").get<int64_t>(), added.at("content").get<std::string>(),
        added.value("special", false) ? kControl : kUserDefined);
  }
  const json unknown = model.value("unk_token", json());
  if (!unknown.is_string()) return;
  const auto at = std::find(out.tokens.begin(), out.tokens.end(), unknown.get<std::string>());
  if (at == out.tokens.end()) return;
  out.unknown_id = at - out.tokens.begin();
  out.types[static_cast<size_t>(out.unknown_id)] = kUnknown;
}

/// Whether the tokenizer writes a space before a text.
bool prepends_space(const json& root) {
  for (const json& step : steps_of(root, "normalizer", "normalizers")) {
    if (step.value("type", "") == "Prepend") return true;
  }
  for (const json& step : steps_of(root, "pre_tokenizer", "pretokenizers")) {
    const std::string type = step.value("type", "");
    if (type == "Metaspace")
      return step.value("prepend_scheme",
                        step.value("add_prefix_space", true) ? "always" : "never") != "never";
    if (type == "ByteLevel") return step.value("add_prefix_space", true);
  }
  return false;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) fail(ErrorCode::kIo, "{}: cannot read the file", path.string());
  return std::move(text).str();
}

}  // namespace

GgufVocabulary gguf_vocabulary(const std::filesystem::path& directory, int64_t n_rows) {
  const Tokenizer tokenizer =
      Tokenizer::load(directory);  // its checks: below the file is well-formed
  const std::filesystem::path path = directory / "tokenizer.json";
  const std::string where = path.string();
  GgufVocabulary out;
  const auto n = static_cast<size_t>(n_rows);
  out.tokens.resize(n);
  out.types.assign(n, kUnused);
  out.scores.assign(n, 0.0f);
  try {
    const json root = json::parse(read(path));
    const json& model = root.at("model");
    const std::vector<json> steps = steps_of(root, "pre_tokenizer", "pretokenizers");
    const bool byte_level = !steps.empty() && steps.back().value("type", "") == "ByteLevel";
    if (!byte_level && !model.value("byte_fallback", false)) fail_unknown(where, "kind of BPE");
    out.model = byte_level ? "gpt2" : "llama";
    set_tokens(root, where, out);
    out.add_space_prefix = prepends_space(root);
    const auto merges = merges_of(model);
    if (byte_level) {
      for (const json& step : steps_of(root, "normalizer", "normalizers")) {
        if (step.value("type", "") != "NFC") fail_unknown(where, "normalizer");
        out.notes.push_back("llama.cpp does not normalize texts to NFC, the tokenizer does");
      }
      out.pre = pre_tokenizer_name(root, model.value("ignore_merges", false), where, out.notes);
      for (const auto& [left, right] : merges)
        out.merges.push_back(fmt::format("{} {}", left, right));
    } else {
      out.pre = "default";
      set_scores(merges, out);
    }
  } catch (const json::exception&) {
    fail(ErrorCode::kCorrupt, "{}: a field is missing or of a wrong type", where);
  }
  const std::vector<TokenId> bare = tokenizer.encode("a", false),
                             whole = tokenizer.encode("a", true);
  const auto at = std::search(whole.begin(), whole.end(), bare.begin(), bare.end());
  out.add_bos = at != whole.begin() && at != whole.end();
  out.add_eos = at != whole.end() && at + static_cast<int64_t>(bare.size()) != whole.end();
  return out;
}

}  // namespace deltacome
