// SPDX-License-Identifier: Apache-2.0
#include "export/gguf_metadata.h"

#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/check.h"
#include "text/chat_template.h"
#include "text/gguf_vocabulary.h"

namespace deltacome {
namespace {

using Name = std::pair<std::string_view, std::string_view>;
constexpr std::array kOuterNames{Name{"model.embed_tokens", "token_embd"},
                                 Name{"model.norm", "output_norm"}, Name{"lm_head", "output"}};
constexpr std::array kLayerNames{
    Name{"input_layernorm", "attn_norm"},    Name{"self_attn.q_proj", "attn_q"},
    Name{"self_attn.k_proj", "attn_k"},      Name{"self_attn.v_proj", "attn_v"},
    Name{"self_attn.q_norm", "attn_q_norm"}, Name{"self_attn.k_norm", "attn_k_norm"},
    Name{"self_attn.o_proj", "attn_output"}, Name{"post_attention_layernorm", "ffn_norm"},
    Name{"mlp.gate_proj", "ffn_gate"},       Name{"mlp.up_proj", "ffn_up"},
    Name{"mlp.down_proj", "ffn_down"}};

template <size_t n>
std::string_view look_up(const std::array<Name, n>& names, std::string_view name) {
  for (const auto& [ours, theirs] : names) {
    if (ours == name) return theirs;
  }
  fail(ErrorCode::kUnsupported, "tensor \"{}\" has no place in a GGUF file", name);
}

bool slides(const ModelConfig& config) {
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    if (config.window(layer) > 0 && config.window(layer) < config.max_positions) return true;
  }
  return false;
}

}  // namespace

std::string gguf_architecture(const ModelConfig& config) {
  // Phi-3 with its fused rows apart computes what Llama does.
  if (config.model_type == "mistral" || config.model_type == "phi3") return "llama";
  if (config.model_type == "llama" || config.model_type == "qwen2" ||
      config.model_type == "qwen3") {
    return config.model_type;
  }
  fail(ErrorCode::kUnsupported,
       "GGUF of architecture {} is not supported; supported are Llama, Mistral, Qwen2, Qwen3",
       config.architecture);
}

std::string gguf_tensor_name(const std::string& name) {
  const size_t dot = name.rfind('.');
  const std::string stem = name.substr(0, dot), leaf = name.substr(dot);
  constexpr std::string_view kLayers = "model.layers.";
  if (!stem.starts_with(kLayers)) return fmt::format("{}{}", look_up(kOuterNames, stem), leaf);
  const size_t end = stem.find('.', kLayers.size());
  return fmt::format("blk.{}.{}{}", stem.substr(kLayers.size(), end - kLayers.size()),
                     look_up(kLayerNames, stem.substr(end + 1)), leaf);
}

bool is_permuted(const ModelConfig& config, const std::string& name) {
  return gguf_architecture(config) == "llama" &&
         (name.find(".q_proj.") != std::string::npos || name.find(".k_proj.") != std::string::npos);
}

std::vector<float> rope_divisors(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.type != RopeType::kLlama3) return {};
  std::vector<float> out;
  const auto dim = static_cast<double>(config.head_dim);
  const double low = rope.original_max_positions / rope.low_freq_factor;
  const double high = rope.original_max_positions / rope.high_freq_factor;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(rope.theta, static_cast<double>(i) / dim);
    double divisor = 1;
    if (wavelength > low) {
      divisor = rope.factor;
    } else if (wavelength > high) {
      const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                            (rope.high_freq_factor - rope.low_freq_factor);
      divisor = 1 / ((1 - smooth) / rope.factor + smooth);
    }
    out.push_back(static_cast<float>(divisor));
  }
  return out;
}

std::vector<std::string> add_model_metadata(GgufWriter& writer, const ModelConfig& config) {
  const std::string arch = gguf_architecture(config);
  const auto key = [&](const char* name) { return fmt::format("{}.{}", arch, name); };
  const RopeConfig& rope = config.rope;
  if (rope.type == RopeType::kLlama3 && arch != "llama") {
    fail(ErrorCode::kUnsupported, "llama.cpp has rope type llama3 for Llama only, not for {}",
         config.architecture);
  }
  if (arch != "llama" &&
      (config.o_bias || config.mlp_bias || (arch == "qwen3" && config.qkv_bias))) {
    fail(ErrorCode::kUnsupported, "llama.cpp has no place for these biases in {}",
         config.architecture);
  }
  writer.add_u32(key("vocab_size"), config.vocab_size);
  writer.add_u32(key("context_length"), config.max_positions);
  writer.add_u32(key("embedding_length"), config.hidden_size);
  writer.add_u32(key("block_count"), config.n_layers);
  writer.add_u32(key("feed_forward_length"), config.intermediate_size);
  writer.add_u32(key("attention.head_count"), config.n_heads);
  writer.add_u32(key("attention.head_count_kv"), config.n_kv_heads);
  writer.add_u32(key("attention.key_length"), config.head_dim);
  writer.add_u32(key("attention.value_length"), config.head_dim);
  writer.add_f32(key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
  writer.add_u32(key("rope.dimension_count"), config.head_dim);
  writer.add_f32(key("rope.freq_base"), rope.theta);
  if (rope.type == RopeType::kLinear) {
    writer.add(key("rope.scaling.type"), "linear");
    writer.add_f32(key("rope.scaling.factor"), rope.factor);
  }
  std::vector<std::string> notes;
  if (slides(config)) {
    notes.push_back(fmt::format(
        "llama.cpp attends to the whole context, the model to the last {} tokens in its sliding "
        "layers: equal up to that length",
        config.sliding_window));
  }
  return notes;
}

std::vector<std::string> add_text_metadata(GgufWriter& writer, const ModelConfig& config,
                                           const std::filesystem::path& directory) {
  constexpr const char* kNoTokenizer = "none";
  if (!std::filesystem::exists(directory / "tokenizer.json")) {
    writer.add("tokenizer.ggml.model", kNoTokenizer);
    return {"the model has no tokenizer.json: the file takes and gives token ids only"};
  }
  const GgufVocabulary text = gguf_vocabulary(directory, config.vocab_size);
  writer.add("tokenizer.ggml.model", text.model);
  writer.add("tokenizer.ggml.pre", text.pre);
  writer.add("tokenizer.ggml.tokens", std::span<const std::string>(text.tokens));
  writer.add("tokenizer.ggml.token_type", std::span<const int32_t>(text.types));
  if (text.model == "llama") {
    writer.add("tokenizer.ggml.scores", std::span<const float>(text.scores));
  } else {
    writer.add("tokenizer.ggml.merges", std::span<const std::string>(text.merges));
  }
  if (config.bos_token_id) writer.add_u32("tokenizer.ggml.bos_token_id", *config.bos_token_id);
  // llama.cpp stops at the end of text and at the end of a turn.
  const std::vector<int64_t>& eos = config.eos_token_ids;
  if (!eos.empty()) writer.add_u32("tokenizer.ggml.eos_token_id", eos[0]);
  if (eos.size() > 1) writer.add_u32("tokenizer.ggml.eot_token_id", eos[1]);
  if (eos.size() > 2) writer.add_u32("tokenizer.ggml.eom_token_id", eos[2]);
  if (text.unknown_id >= 0) writer.add_u32("tokenizer.ggml.unknown_token_id", text.unknown_id);
  writer.add_bool("tokenizer.ggml.add_bos_token", text.add_bos);
  writer.add_bool("tokenizer.ggml.add_eos_token", text.add_eos);
  writer.add_bool("tokenizer.ggml.add_space_prefix", text.add_space_prefix);
  if (const auto source = chat_template_source(directory))
    writer.add("tokenizer.chat_template", *source);
  return text.notes;
}

}  // namespace deltacome
