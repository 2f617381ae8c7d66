// SPDX-License-Identifier: Apache-2.0
#include "io/model_config.h"

#include <array>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "io/config_fields.h"
#include "io/files.h"
#include "io/json.h"
#include "io/vision_fields.h"

namespace deltacome {
namespace {

using nlohmann::json;

// Bounds far above any model, so that no product of sizes below overflows an int64.
constexpr int64_t kMaxWidth = 1 << 20;  // hidden_size, intermediate_size, head_dim
constexpr int64_t kMaxHeads = 1 << 16;  // heads * head_dim * hidden_size <= 2^56
constexpr int64_t kMaxLayers = 1 << 12;
constexpr int64_t kMaxVocab = 1 << 26;
constexpr int64_t kMaxPositions = int64_t{1} << 40;

struct Architecture {
  const char* model_type;
  const char* name;
};
constexpr std::array<Architecture, 5> kArchitectures{{{"llama", "LlamaForCausalLM"},
                                                      {"mistral", "MistralForCausalLM"},
                                                      {"phi3", "Phi3ForCausalLM"},
                                                      {"qwen2", "Qwen2ForCausalLM"},
                                                      {"qwen3", "Qwen3ForCausalLM"}}};

std::string supported(const char* Architecture::*member) {
  std::string list;
  for (const Architecture& architecture : kArchitectures) {
    list += fmt::format("{}{}", list.empty() ? "" : ", ", architecture.*member);
  }
  return list;
}

const Architecture* find_architecture(const std::string& text, const char* Architecture::*member) {
  for (const Architecture& architecture : kArchitectures) {
    if (text == architecture.*member) return &architecture;
  }
  return nullptr;
}

/// architectures[0] decides; a file without it is known by its model_type. The two must agree.
const Architecture& read_architecture(const ConfigFields& fields) {
  const std::string model_type = fields.text_or("model_type", "");
  const json* list = fields.find("architectures");
  if (list == nullptr || (list->is_array() && list->empty())) {
    const Architecture* known = find_architecture(model_type, &Architecture::model_type);
    if (known != nullptr) return *known;
    if (model_type.empty()) {
      fail(ErrorCode::kCorrupt, "{}: architectures and model_type are missing", fields.where());
    }
    fail(ErrorCode::kUnsupported, "{}: model_type {} is not supported; supported are {}",
         fields.where(), quote(model_type), supported(&Architecture::model_type));
  }
  if (!list->is_array() || !list->front().is_string()) {
    fields.reject("architectures", *list, "a list of class names");
  }
  const auto& name = list->front().get_ref<const std::string&>();
  const Architecture* known = find_architecture(name, &Architecture::name);
  if (known == nullptr) {
    fail(ErrorCode::kUnsupported, "{}: architecture {} is not supported; supported are {}",
         fields.where(), quote(name), supported(&Architecture::name));
  }
  if (!model_type.empty() && model_type != known->model_type) {
    fail(ErrorCode::kCorrupt, "{}: model_type is {}, expected {} for architecture {}",
         fields.where(), quote(model_type), quote(known->model_type), quote(name));
  }
  return *known;
}

[[noreturn]] void fail_rope_type(const ConfigFields& rope, const std::string& got) {
  fail(ErrorCode::kUnsupported,
       "{}: rope type {} is not supported; supported are default, linear, llama3", rope.where(),
       got);
}

void check_full_rotary(const ConfigFields& fields) {
  const double part = fields.number_or("partial_rotary_factor", 1.0, 0.0, 1.0);
  if (part != 1.0) {
    fail(ErrorCode::kUnsupported, "{}: partial_rotary_factor {} is not supported; supported is 1",
         fields.where(), part);
  }
}

/// The members that depend on the type; `fields` is rope_parameters or rope_scaling.
void read_rope_scaling(const ConfigFields& fields, RopeConfig& rope) {
  const std::string type = fields.text_or("rope_type", fields.text_or("type", ""));
  check_full_rotary(fields);
  rope.theta = fields.number_or("rope_theta", rope.theta, 1.0, 1e15);
  if (type.empty() && fields.is_present("factor")) {
    fail(ErrorCode::kCorrupt, "{}: rope_type is missing", fields.where());
  }
  if (type.empty() || type == "default") return;
  if (type == "linear") {
    rope.type = RopeType::kLinear;
    rope.factor = fields.number("factor", 1.0, 1e6);
    return;
  }
  if (type != "llama3") fail_rope_type(fields, quote(type));
  rope.type = RopeType::kLlama3;
  rope.factor = fields.number("factor", 1.0, 1e6);
  rope.low_freq_factor = fields.number("low_freq_factor", 1e-6, 1e6);
  rope.high_freq_factor = fields.number("high_freq_factor", 1e-6, 1e6);
  rope.original_max_positions =
      fields.number("original_max_position_embeddings", 1.0, static_cast<double>(kMaxPositions));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    fail(ErrorCode::kCorrupt, "{}: high_freq_factor is {}, expected more than low_freq_factor {}",
         fields.where(), rope.high_freq_factor, rope.low_freq_factor);
  }
}

/// transformers 5 writes rope_parameters; earlier versions rope_theta and rope_scaling.
RopeConfig read_rope(const ConfigFields& fields) {
  RopeConfig rope;
  check_full_rotary(fields);
  rope.theta = fields.number_or("rope_theta", rope.theta, 1.0, 1e15);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* value = fields.find(key);
    if (value == nullptr || (value->is_object() && value->empty())) continue;
    if (!value->is_object()) fields.reject(key, *value, "an object");
    for (const auto& [name, member] : value->items()) {  // one set for each layer type
      if (member.is_object()) fail_rope_type(fields, fmt::format("set by {}", quote(name)));
    }
    read_rope_scaling(ConfigFields(*value, fmt::format("{}: {}", fields.where(), key)), rope);
    break;
  }
  return rope;
}

/// Which layers slide, as layer_types says; else those from max_window_layers on.
std::vector<bool> read_sliding_layers(const ConfigFields& fields, int64_t n_layers,
                                      bool any_window) {
  std::vector<bool> slides(static_cast<size_t>(n_layers), false);
  const json* types = fields.find("layer_types");
  if (types == nullptr) {
    const int64_t first = fields.integer_or("max_window_layers", 28, 0, INT64_MAX);
    for (int64_t i = first; i < n_layers; ++i) slides[static_cast<size_t>(i)] = any_window;
    return slides;
  }
  if (!types->is_array() || types->size() != slides.size()) {
    fail(ErrorCode::kCorrupt, "{}: layer_types has {} entries, expected a list of {}",
         fields.where(), types->size(), n_layers);
  }
  for (size_t i = 0; i < slides.size(); ++i) {
    const json& type = (*types)[i];
    slides[i] = type == "sliding_attention";
    if (!slides[i] && type != "full_attention") {
      fail(ErrorCode::kUnsupported,
           "{}: layer type {} is not supported; supported are full_attention, sliding_attention",
           fields.where(), describe(type));
    }
    if (slides[i] && !any_window) {
      fail(ErrorCode::kCorrupt,
           "{}: layer {} is sliding_attention, but no sliding_window is in use", fields.where(), i);
    }
  }
  return slides;
}

void read_windows(const ConfigFields& fields, ModelConfig& config) {
  constexpr int64_t kDefaultWindow = 4096;  // of transformers, if the field is absent
  const bool is_qwen = config.model_type == "qwen2" || config.model_type == "qwen3";
  const bool is_phi = config.model_type == "phi3";
  if (!is_qwen && !is_phi && config.model_type != "mistral") return;
  if (!is_qwen || fields.flag_or("use_sliding_window", false)) {
    const int64_t absent = is_phi || fields.is_present("sliding_window") ? 0 : kDefaultWindow;
    config.sliding_window = fields.integer_or("sliding_window", absent, 1, kMaxPositions);
  }
  if (is_qwen) {
    config.sliding_layers = read_sliding_layers(fields, config.n_layers, config.sliding_window > 0);
  }
}

void read_sizes(const ConfigFields& fields, ModelConfig& config) {
  config.hidden_size = fields.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = fields.integer("intermediate_size", 1, kMaxWidth);
  config.n_layers = fields.integer("num_hidden_layers", 1, kMaxLayers);
  config.n_heads = fields.integer("num_attention_heads", 1, kMaxHeads);
  config.n_kv_heads = fields.integer_or("num_key_value_heads", config.n_heads, 1, kMaxHeads);
  config.vocab_size = fields.integer("vocab_size", 1, kMaxVocab);
  config.max_positions = fields.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps =
      fields.number_or("rms_norm_eps", config.model_type == "phi3" ? 1e-5 : 1e-6, 0.0, 1.0);
  if (config.n_heads % config.n_kv_heads != 0) {
    fail(ErrorCode::kCorrupt,
         "{}: num_attention_heads is {}, expected a multiple of num_key_value_heads {}",
         fields.where(), config.n_heads, config.n_kv_heads);
  }
  // transformers gives Qwen3 a head_dim of its own, not one that follows from the width.
  const bool qwen3_default = config.model_type == "qwen3" && !fields.is_present("head_dim");
  if (fields.find("head_dim") == nullptr && !qwen3_default &&
      config.hidden_size % config.n_heads != 0) {
    fail(ErrorCode::kCorrupt,
         "{}: hidden_size is {}, expected a multiple of {} heads or a head_dim", fields.where(),
         config.hidden_size, config.n_heads);
  }
  const int64_t absent = qwen3_default ? 128 : config.hidden_size / config.n_heads;
  config.head_dim = fields.integer_or("head_dim", absent, 1, kMaxWidth);
  if (config.head_dim % 2 != 0) {
    fail(ErrorCode::kCorrupt, "{}: head_dim is {}, expected an even number", fields.where(),
         config.head_dim);
  }
}

void read_flags(const ConfigFields& fields, ModelConfig& config) {
  const std::string activation = fields.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail(ErrorCode::kUnsupported, "{}: hidden_act {} is not supported; supported are silu, swish",
         fields.where(), quote(activation));
  }
  const bool is_llama = config.model_type == "llama";
  const bool is_qwen2 = config.model_type == "qwen2";
  config.qk_norm = config.model_type == "qwen3";
  config.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  // Only Llama and Qwen3 read these two; Qwen2 always has biases, but none on its output.
  const bool attention_bias =
      (is_llama || config.qk_norm) && fields.flag_or("attention_bias", false);
  config.qkv_bias = is_qwen2 || attention_bias;
  config.o_bias = attention_bias;
  config.mlp_bias = is_llama && fields.flag_or("mlp_bias", false);
}

/// eos_token_id as one id or a list; empty if absent.
std::vector<int64_t> read_eos(const ConfigFields& fields) {
  const json* value = fields.find("eos_token_id");
  if (value == nullptr) return {};
  std::vector<int64_t> ids;
  const auto add = [&](const json& id) {
    ids.push_back(fields.check_integer("eos_token_id", id, 0, kMaxVocab));
  };
  if (value->is_array()) {
    for (const json& id : *value) add(id);
  } else {
    add(*value);
  }
  return ids;
}

}  // namespace

ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_json,
                               const std::string& name) {
  const std::string file = name + "/config.json";
  const json whole = parse_json_object(config_json, file);
  const bool llava = is_llava(whole);
  const json object = llava ? llava_language_config(whole, file) : whole;
  const std::string where = llava && whole.contains("text_config") ? file + ": text_config" : file;
  const ConfigFields fields(object, where);
  ModelConfig config;
  if (llava) {
    config.vision = read_vision_config(whole, file);
  }
  const Architecture& architecture = read_architecture(fields);
  config.model_type = architecture.model_type;
  config.architecture = architecture.name;
  read_sizes(fields, config);
  read_flags(fields, config);
  config.rope = read_rope(fields);
  read_windows(fields, config);
  if (fields.find("bos_token_id") != nullptr) {
    config.bos_token_id = fields.integer("bos_token_id", 0, kMaxVocab);
  }
  if (!generation_json.empty()) {
    const std::string generation_where = name + "/generation_config.json";
    const json generation = parse_json_object(generation_json, generation_where);
    config.eos_token_ids = read_eos(ConfigFields(generation, generation_where));
  }
  if (config.eos_token_ids.empty()) config.eos_token_ids = read_eos(fields);
  return config;
}

ModelConfig read_model_config(const std::filesystem::path& directory,
                              const std::filesystem::path& fallback) {
  std::error_code error;
  const auto place = [&](const char* name) {
    const bool absent = !fallback.empty() && !std::filesystem::exists(directory / name, error);
    return (absent ? fallback : directory) / name;
  };
  const std::string config = read_text_file(place("config.json"));
  std::string generation;
  const std::filesystem::path generation_path = place("generation_config.json");
  if (std::filesystem::exists(generation_path, error)) {
    generation = read_text_file(generation_path);
    if (generation.empty()) {
      fail(ErrorCode::kCorrupt, "{}: the file is empty", generation_path.string());
    }
  }
  return parse_model_config(config, generation, directory.string());
}

}  // namespace deltacome
