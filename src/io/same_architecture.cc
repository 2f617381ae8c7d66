// SPDX-License-Identifier: Apache-2.0
#include "io/same_architecture.h"

#include "core/check.h"

namespace deltacome {
namespace {

template <class T>
void expect_same(const char* setting, const T& base, const T& finetuned) {
  if (base == finetuned) return;
  fail(ErrorCode::kMismatch,
       "the fine-tune's {} is {}, the base's is {}: a delta cannot bridge that", setting, finetuned,
       base);
}

}  // namespace

void check_same_architecture(const ModelConfig& base, const ModelConfig& finetuned) {
  expect_same("architecture", base.architecture, finetuned.architecture);
  expect_same("hidden_size", base.hidden_size, finetuned.hidden_size);
  expect_same("intermediate_size", base.intermediate_size, finetuned.intermediate_size);
  expect_same("number of layers", base.n_layers, finetuned.n_layers);
  expect_same("number of heads", base.n_heads, finetuned.n_heads);
  expect_same("number of key/value heads", base.n_kv_heads, finetuned.n_kv_heads);
  expect_same("head_dim", base.head_dim, finetuned.head_dim);
  expect_same("rms_norm_eps", base.rms_norm_eps, finetuned.rms_norm_eps);
  expect_same("tie_word_embeddings", base.tied_embeddings, finetuned.tied_embeddings);
  expect_same("attention bias", base.qkv_bias, finetuned.qkv_bias);
  expect_same("output projection bias", base.o_bias, finetuned.o_bias);
  expect_same("mlp_bias", base.mlp_bias, finetuned.mlp_bias);
  expect_same("sliding_window", base.sliding_window, finetuned.sliding_window);
  expect_same("set of sliding layers", base.sliding_layers == finetuned.sliding_layers, true);
  expect_same("RoPE type", static_cast<int>(base.rope.type), static_cast<int>(finetuned.rope.type));
  expect_same("rope_theta", base.rope.theta, finetuned.rope.theta);
  if (base.rope.type == RopeType::kDefault) return;
  expect_same("RoPE factor", base.rope.factor, finetuned.rope.factor);
  if (base.rope.type == RopeType::kLinear) return;
  expect_same("RoPE low_freq_factor", base.rope.low_freq_factor, finetuned.rope.low_freq_factor);
  expect_same("RoPE high_freq_factor", base.rope.high_freq_factor, finetuned.rope.high_freq_factor);
  expect_same("RoPE original_max_position_embeddings", base.rope.original_max_positions,
              finetuned.rope.original_max_positions);
}

}  // namespace deltacome
