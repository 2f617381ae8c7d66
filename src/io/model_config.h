// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/vision_config.h"

namespace deltacome {

/// How rotary position embeddings scale with position.
enum class RopeType { kDefault, kLinear, kLlama3 };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                   // linear, llama3
  double low_freq_factor = 1.0;          // llama3
  double high_freq_factor = 4.0;         // llama3
  double original_max_positions = 8192;  // llama3
};

/// A decoder-only transformer of the Llama family, from a Hugging Face config.json. One struct
/// serves all supported architectures: they differ in flags only.
struct ModelConfig {
  std::string model_type;    // "llama", "mistral", "phi3", "qwen2", "qwen3"
  std::string architecture;  // "LlamaForCausalLM", ...
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;  // Qwen2, or attention_bias
  bool o_bias = false;    // attention_bias of Llama
  bool mlp_bias = false;
  bool qk_norm = false;        // Qwen3: RMSNorm over head_dim of q and k
  int64_t sliding_window = 0;  // keys a query sees, itself included; 0 = all. Use window(layer)
  std::vector<bool> sliding_layers;  // [n_layers] which layers slide; empty = every layer
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  std::optional<VisionConfig> vision;  // of the LLaVA form; all else is its language model's

  int64_t window(int64_t layer) const noexcept {
    const bool slides = sliding_layers.empty() || sliding_layers[static_cast<size_t>(layer)];
    return slides ? sliding_window : 0;
  }
};

/// Reads config.json (and generation_config.json for the end-of-sequence ids). Both RoPE forms:
/// rope_theta + rope_scaling {type | rope_type}, and rope_parameters {rope_type, rope_theta, ...}.
/// A file that `directory` lacks is taken from `fallback`, if one is given.
/// Throws kNotFound, kCorrupt (not JSON, a field missing, of the wrong type or out of range, by
/// name), kUnsupported for an unknown architecture, rope type or activation, listing the supported
/// ones.
ModelConfig read_model_config(const std::filesystem::path& directory,
                              const std::filesystem::path& fallback = {});

/// The same from text. An empty `generation_json` means that there is no such file; `name` stands
/// for the directory in messages.
ModelConfig parse_model_config(std::string_view config_json, std::string_view generation_json,
                               const std::string& name);

/// One tensor that the architecture has.
struct ExpectedTensor {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
  enum class Kind { kEmbedding, kHead, kNorm, kBias, kProjection, kVision } kind;
  int64_t layer = -1;  // -1 outside of layers
};

/// Every tensor of the language model that a checkpoint of this configuration holds, in the order
/// of the forward pass (embedding, layers, final norm, head; no head if tied). Names as
/// transformers writes them for a language model that is alone (canonical_tensor_name()).
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

/// Those of its vision tower and projector, kind kVision; none without vision.
std::vector<ExpectedTensor> expected_vision_tensors(const ModelConfig& config);

}  // namespace deltacome
