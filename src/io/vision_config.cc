// SPDX-License-Identifier: Apache-2.0
#include "io/vision_config.h"

#include "core/check.h"
#include "io/config_fields.h"
#include "io/vision_fields.h"

namespace deltacome {
namespace {

using nlohmann::json;

// Far above any tower, so that no product of sizes overflows an int64.
constexpr int64_t kMaxWidth = 1 << 16;
constexpr int64_t kMaxLayers = 1 << 10;
constexpr int64_t kMaxSide = 1 << 13;  // pixels
constexpr int64_t kMaxVocab = 1 << 26;
constexpr int64_t kMaxFeatures = 1 << 16;  // of a picture

const json* object_of(const json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return nullptr;
  if (!found->is_object()) {
    fail(ErrorCode::kCorrupt, "{}: {} is {}, expected an object", where, key, describe(*found));
  }
  return &*found;
}

Gelu read_gelu(const ConfigFields& fields, const char* key, const std::string& absent) {
  const std::string name = fields.text_or(key, absent);
  if (name == "gelu") return Gelu::kExact;
  if (name == "quick_gelu") return Gelu::kQuick;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Gelu::kTanh;
  fail(ErrorCode::kUnsupported,
       "{}: {} {} is not supported; supported are gelu, quick_gelu, gelu_pytorch_tanh, gelu_new",
       fields.where(), key, quote(name));
}

/// What is taken from the tower; `layer_key` and `select_key` are names of fields.
void read_features(const ConfigFields& fields, const char* layer_key, const char* select_key,
                   VisionConfig& config) {
  const json* layer = fields.find(layer_key);
  if (layer != nullptr && layer->is_array()) {
    fail(ErrorCode::kUnsupported,
         "{}: {} is a list; features of several layers are not supported, one layer is",
         fields.where(), layer_key);
  }
  const int64_t n = config.n_layers;
  const int64_t at = fields.integer_or(layer_key, -2, -n - 1, n);
  config.feature_layers = at >= 0 ? at : n + 1 + at;
  const std::string select = fields.text_or(select_key, "default");
  if (select != "default" && select != "full" && select != "patch" && select != "cls_patch") {
    fail(ErrorCode::kUnsupported,
         "{}: {} {} is not supported; supported are default (patch), full (cls_patch)",
         fields.where(), select_key, quote(select));
  }
  config.class_feature = select == "full" || select == "cls_patch";
}

void read_tower(const ConfigFields& fields, VisionConfig& config) {
  const std::string type = fields.text_or("model_type", "clip_vision_model");
  if (type != "clip_vision_model") {
    fail(ErrorCode::kUnsupported,
         "{}: a vision tower of model_type {} is not supported; supported is clip_vision_model",
         fields.where(), quote(type));
  }
  fields.integer_or("num_channels", 3, 3, 3);
  config.hidden_size = fields.integer_or("hidden_size", 768, 1, kMaxWidth);
  config.intermediate_size = fields.integer_or("intermediate_size", 3072, 1, kMaxWidth);
  config.n_layers = fields.integer_or("num_hidden_layers", 12, 1, kMaxLayers);
  config.n_heads = fields.integer_or("num_attention_heads", 12, 1, kMaxWidth);
  config.image_size = fields.integer_or("image_size", 224, 1, kMaxSide);
  config.patch_size = fields.integer_or("patch_size", 32, 1, kMaxSide);
  config.layer_norm_eps = fields.number_or("layer_norm_eps", 1e-5, 0.0, 1.0);
  config.activation = read_gelu(fields, "hidden_act", "quick_gelu");
  if (config.hidden_size % config.n_heads != 0) {
    fail(ErrorCode::kCorrupt, "{}: hidden_size is {}, expected a multiple of {} heads",
         fields.where(), config.hidden_size, config.n_heads);
  }
  if (config.patch_size > config.image_size || config.n_features() > kMaxFeatures) {
    fail(ErrorCode::kCorrupt,
         "{}: image_size is {} and patch_size {}, expected 1 to {} patches of a picture",
         fields.where(), config.image_size, config.patch_size, kMaxFeatures);
  }
}

/// The towers that the authors' own checkpoints name instead of describing them.
VisionConfig known_tower(const ConfigFields& fields) {
  const std::string name = fields.text_or("mm_vision_tower", "");
  VisionConfig config{.hidden_size = 1024,
                      .intermediate_size = 4096,
                      .n_layers = 24,
                      .n_heads = 16,
                      .image_size = 336,
                      .patch_size = 14};
  if (name.ends_with("clip-vit-large-patch14-336")) return config;
  config.image_size = 224;
  if (name.ends_with("clip-vit-large-patch14")) return config;
  fail(ErrorCode::kUnsupported,
       "{}: mm_vision_tower {} is not supported; supported are openai/clip-vit-large-patch14 and "
       "openai/clip-vit-large-patch14-336",
       fields.where(), quote(name));
}

bool is_authors_form(const json& config) {
  return config.contains("mm_vision_tower");
}

}  // namespace

bool is_llava(const json& config) {
  const auto type = config.find("model_type");
  if (type != config.end() && (*type == "llava" || *type == "llava_llama")) return true;
  const auto list = config.find("architectures");
  return list != config.end() && list->is_array() && !list->empty() &&
         (list->front() == "LlavaForConditionalGeneration" ||
          list->front() == "LlavaLlamaForCausalLM");
}

json llava_language_config(const json& config, const std::string& where) {
  const bool authors = is_authors_form(config);
  json text = authors ? config : json::object();
  if (!authors) {
    if (const json* own = object_of(config, "text_config", where)) text = *own;
    if (config.contains("quantization_config"))
      text["quantization_config"] = config["quantization_config"];
  }
  if (authors || !text.contains("model_type")) text["model_type"] = "llama";
  if (authors) text.erase("architectures");
  if (text["model_type"] != "llama") return text;
  // What LlamaConfig has where a file says nothing.
  const json defaults = {{"hidden_size", 4096},     {"intermediate_size", 11008},
                         {"num_hidden_layers", 32}, {"num_attention_heads", 32},
                         {"vocab_size", 32000},     {"max_position_embeddings", 2048},
                         {"bos_token_id", 1},       {"eos_token_id", 2}};
  for (const auto& [key, value] : defaults.items()) {
    if (!text.contains(key)) text[key] = value;
  }
  return text;
}

VisionConfig read_vision_config(const json& config, const std::string& where) {
  const ConfigFields fields(config, where);
  if (is_authors_form(config)) {
    VisionConfig out = known_tower(fields);
    read_features(fields, "mm_vision_select_layer", "mm_vision_select_feature", out);
    const std::string projector = fields.text_or("mm_projector_type", "linear");
    if (projector != "linear" && projector != "mlp2x_gelu") {
      fail(ErrorCode::kUnsupported,
           "{}: mm_projector_type {} is not supported; supported are linear, mlp2x_gelu", where,
           quote(projector));
    }
    out.projector_layers = projector == "linear" ? 1 : 2;
    // Their prompts name a picture by no token of the vocabulary: the first id beyond it.
    out.image_token_id = fields.integer("vocab_size", 1, kMaxVocab);
    return out;
  }
  VisionConfig out;
  const json none = json::object();
  const json* tower = object_of(config, "vision_config", where);
  read_tower(ConfigFields(tower ? *tower : none, where + ": vision_config"), out);
  read_features(fields, "vision_feature_layer", "vision_feature_select_strategy", out);
  out.projector_bias = fields.flag_or("multimodal_projector_bias", true);
  out.projector_activation = read_gelu(fields, "projector_hidden_act", "gelu");
  const char* key = fields.is_present("image_token_index") ? "image_token_index" : "image_token_id";
  out.image_token_id = fields.integer_or(key, 32000, 0, kMaxVocab);
  return out;
}

}  // namespace deltacome
