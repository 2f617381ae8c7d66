// SPDX-License-Identifier: Apache-2.0
#include "io/peft_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cmath>
#include <new>

#include "core/check.h"
#include "io/config_fields.h"

namespace deltacome {
namespace {

using nlohmann::json;

constexpr int64_t kMaxRank = 1 << 20;
constexpr double kMaxAlpha = 1e9;
constexpr uint32_t kMatchLimit = 100'000;  // a module name has a hundred characters
constexpr uint32_t kHeapLimitKib = 1024;
constexpr size_t kMaxPatternBytes = 1024;
constexpr size_t kMaxPatterns = 4096;  // four times the modules of the largest model in use

/// Fields that change what an adapter computes; plain LoRA has them absent, null, false or empty.
struct Feature {
  const char* field;
  const char* what;
};
constexpr std::array kFeatures{
    Feature{"use_dora", "DoRA"},
    Feature{"use_qalora", "QA-LoRA"},
    Feature{"fan_in_fan_out", "transposed weights"},
    Feature{"lora_bias", "biases"},
    Feature{"trainable_token_indices", "trained token embeddings"},
    Feature{"target_parameters", "adapted parameters outside of modules"},
    Feature{"layer_replication", "repeated layers"},
    Feature{"alora_invocation_tokens", "aLoRA"}};

/// Initializations that subtract from the base, so that the adapter fits another base than the
/// published one.
constexpr std::array kChangesBase{"pissa", "olora", "corda", "loftq", "lora_ga"};

bool is_off(const json& value) {
  return value == json(false) || ((value.is_structured() || value.is_null()) && value.empty());
}

void check_method(const ConfigFields& fields) {
  const std::string type = fields.text_or("peft_type", "");
  if (type != "LORA") {
    fail(ErrorCode::kUnsupported, "{}: peft_type is {}, expected \"LORA\"", fields.where(),
         quote(type));
  }
  for (const Feature& feature : kFeatures) {
    const json* value = fields.find(feature.field);
    if (value == nullptr || is_off(*value)) continue;
    fail(ErrorCode::kUnsupported,
         "{}: {} is {}, expected none: adapters with {} are not supported, plain LoRA and rsLoRA "
         "are",
         fields.where(), feature.field, describe(*value), feature.what);
  }
  if (const std::string bias = fields.text_or("bias", "none"); bias != "none") {
    fail(ErrorCode::kUnsupported,
         "{}: bias is {}, expected \"none\": adapters with biases are not supported",
         fields.where(), quote(bias));
  }
  const json* init = fields.find("init_lora_weights");
  if (init == nullptr || !init->is_string()) return;
  const std::string name = init->get<std::string>();
  for (const char* changes : kChangesBase) {
    if (!name.starts_with(changes)) continue;
    fail(ErrorCode::kUnsupported,
         "{}: init_lora_weights is {}, which changes the base; convert the adapter to plain LoRA "
         "when it is saved (path_initial_model_for_weight_conversion of PEFT)",
         fields.where(), quote(name));
  }
}

/// Compiles a key as PEFT reads it: (.*\.)?(key)$ from the first character.
std::shared_ptr<const pcre2_real_code_8> compile(const std::string& key, const std::string& where) {
  const std::string pattern = "(?:.*\\.)?(?:" + key + ")$";
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = nullptr;
  if (key.size() <= kMaxPatternBytes) {
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         PCRE2_ANCHORED | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
  }
  if (code == nullptr) {
    fail(ErrorCode::kCorrupt, "{}: {} is not a regular expression that PCRE2 compiles", where,
         quote(key));
  }
  return {code, pcre2_code_free};
}

bool matches(const pcre2_real_code_8& code, const std::string& module) {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (!data || !context) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int found = pcre2_match(&code, reinterpret_cast<PCRE2_SPTR>(module.data()), module.size(),
                                0, 0, data.get(), context.get());
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
    fail(ErrorCode::kCorrupt, "a module pattern of the adapter backtracks too much on {}",
         quote(module));
  }
  return found >= 0;
}

/// The names inside the object `field`, in the order of the text, which json does not keep.
std::vector<std::string> ordered_names(std::string_view text, const char* field) {
  std::vector<std::string> names;
  std::string top;
  const auto note = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event != json::parse_event_t::key) return true;
    if (depth == 1) top = parsed.get<std::string>();
    if (depth == 2 && top == field) names.push_back(parsed.get<std::string>());
    return true;
  };
  const json parsed = json::parse(text.begin(), text.end(), note);
  return parsed.contains(field) ? names : std::vector<std::string>{};
}

}  // namespace

PeftConfig PeftConfig::parse(std::string_view text, const std::string& where) {
  const json object = parse_json_object(text, where);
  const ConfigFields fields(object, where);
  check_method(fields);
  PeftConfig config;
  config.base_name_ = fields.text_or("base_model_name_or_path", "");
  config.rank_ = fields.integer("r", 1, kMaxRank);
  config.alpha_ = fields.number("lora_alpha", -kMaxAlpha, kMaxAlpha);
  config.rank_stabilized_ = fields.flag_or("use_rslora", false);
  config.ties_weights_ = fields.flag_or("ensure_weight_tying", false);
  config.saved_modules_ = fields.texts_or_empty("modules_to_save");
  const auto read_patterns = [&](const char* field, std::vector<Pattern>& out, const auto& read) {
    const json* patterns = fields.find(field);
    if (patterns == nullptr) return;
    if (!patterns->is_object()) fields.reject(field, *patterns, "an object");
    const std::string inside = fmt::format("{}: {}", where, field);
    if (patterns->size() > kMaxPatterns) {
      fail(ErrorCode::kUnsupported, "{} has {} names, expected at most {}", inside,
           patterns->size(), kMaxPatterns);
    }
    const ConfigFields values(*patterns, inside);
    for (const std::string& key : ordered_names(text, field))
      out.push_back({compile(key, inside), read(values, key.c_str())});
  };
  read_patterns("rank_pattern", config.rank_patterns_, [](const ConfigFields& v, const char* key) {
    return static_cast<double>(v.integer(key, 1, kMaxRank));
  });
  read_patterns(
      "alpha_pattern", config.alpha_patterns_,
      [](const ConfigFields& v, const char* key) { return v.number(key, -kMaxAlpha, kMaxAlpha); });
  return config;
}

bool PeftConfig::is_saved_whole(const std::string& module) const {
  // PEFT keeps a module whole with all that is in it, and compares the ends of names as text.
  for (size_t end = module.find('.');; end = module.find('.', end + 1)) {
    const std::string_view outer = std::string_view(module).substr(0, end);
    for (const std::string& saved : saved_modules_) {
      if (outer.ends_with(saved)) return true;
    }
    if (end == std::string::npos) return false;
  }
}

double PeftConfig::lookup(const std::vector<Pattern>& patterns, const std::string& module,
                          double otherwise) {
  for (const Pattern& pattern : patterns) {
    if (matches(*pattern.code, module)) return pattern.value;
  }
  return otherwise;
}

int64_t PeftConfig::rank(const std::string& module) const {
  return static_cast<int64_t>(lookup(rank_patterns_, module, static_cast<double>(rank_)));
}

double PeftConfig::scale(const std::string& module) const {
  const auto r = static_cast<double>(rank(module));
  return lookup(alpha_patterns_, module, alpha_) / (rank_stabilized_ ? std::sqrt(r) : r);
}

}  // namespace deltacome
