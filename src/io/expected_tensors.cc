// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "io/model_config.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

/// Appends the tensors of one layer; names are "<prefix><module>.weight" and ".bias".
class LayerTensors {
 public:
  LayerTensors(std::vector<ExpectedTensor>& out, int64_t layer)
      : out_(out), layer_(layer), prefix_(fmt::format("model.layers.{}.", layer)) {}

  void norm(const char* module, int64_t n) { add(module, "weight", {n}, Kind::kNorm); }

  void projection(const char* module, int64_t n_out, int64_t n_in, bool bias) {
    add(module, "weight", {n_out, n_in}, Kind::kProjection);
    if (bias) add(module, "bias", {n_out}, Kind::kBias);
  }

 private:
  void add(const char* module, const char* leaf, std::vector<int64_t> shape, Kind kind) {
    out_.push_back({.name = fmt::format("{}{}.{}", prefix_, module, leaf),
                    .shape = std::move(shape),
                    .kind = kind,
                    .layer = layer_});
  }

  std::vector<ExpectedTensor>& out_;
  int64_t layer_;
  std::string prefix_;
};

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t n_q = config.n_heads * config.head_dim;
  const int64_t n_kv = config.n_kv_heads * config.head_dim;
  std::vector<ExpectedTensor> out;
  out.push_back({.name = "model.embed_tokens.weight",
                 .shape = {config.vocab_size, hidden},
                 .kind = Kind::kEmbedding});
  for (int64_t i = 0; i < config.n_layers; ++i) {
    LayerTensors layer(out, i);
    layer.norm("input_layernorm", hidden);
    layer.projection("self_attn.q_proj", n_q, hidden, config.qkv_bias);
    layer.projection("self_attn.k_proj", n_kv, hidden, config.qkv_bias);
    layer.projection("self_attn.v_proj", n_kv, hidden, config.qkv_bias);
    if (config.qk_norm) {
      layer.norm("self_attn.q_norm", config.head_dim);
      layer.norm("self_attn.k_norm", config.head_dim);
    }
    layer.projection("self_attn.o_proj", hidden, n_q, config.o_bias);
    layer.norm("post_attention_layernorm", hidden);
    layer.projection("mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias);
    layer.projection("mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias);
    layer.projection("mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias);
  }
  out.push_back({.name = "model.norm.weight", .shape = {hidden}, .kind = Kind::kNorm});
  if (!config.tied_embeddings) {
    out.push_back(
        {.name = "lm_head.weight", .shape = {config.vocab_size, hidden}, .kind = Kind::kHead});
  }
  return out;
}

std::vector<ExpectedTensor> expected_vision_tensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> out;
  if (!config.vision) return out;
  const VisionConfig& v = *config.vision;
  const int64_t hidden = v.hidden_size;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    out.push_back({.name = std::move(name), .shape = std::move(shape), .kind = Kind::kVision});
  };
  const auto norm = [&](const std::string& module) {
    add(module + ".weight", {hidden});
    add(module + ".bias", {hidden});
  };
  const auto linear = [&](const std::string& module, int64_t n_out, int64_t n_in, bool bias) {
    add(module + ".weight", {n_out, n_in});
    if (bias) add(module + ".bias", {n_out});
  };
  add("vision_tower.embeddings.class_embedding", {hidden});
  add("vision_tower.embeddings.patch_embedding.weight", {hidden, 3, v.patch_size, v.patch_size});
  add("vision_tower.embeddings.position_embedding.weight", {v.n_patches() + 1, hidden});
  norm("vision_tower.pre_layrnorm");  // spelled like this
  for (int64_t i = 0; i < v.n_layers; ++i) {
    const std::string layer = fmt::format("vision_tower.encoder.layers.{}.", i);
    norm(layer + "layer_norm1");
    for (const char* which : {"q_proj", "k_proj", "v_proj", "out_proj"})
      linear(layer + "self_attn." + which, hidden, hidden, true);
    norm(layer + "layer_norm2");
    linear(layer + "mlp.fc1", v.intermediate_size, hidden, true);
    linear(layer + "mlp.fc2", hidden, v.intermediate_size, true);
  }
  norm("vision_tower.post_layernorm");
  for (int i = 1; i <= v.projector_layers; ++i) {
    linear(fmt::format("multi_modal_projector.linear_{}", i), config.hidden_size,
           i == 1 ? hidden : config.hidden_size, v.projector_bias);
  }
  return out;
}

}  // namespace deltacome
