// SPDX-License-Identifier: Apache-2.0
#include "compress/checkpoints.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

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

/// Everything that changes what the forward pass computes with given weights.
void expect_same_architecture(const ModelConfig& base, const ModelConfig& finetuned) {
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

bool has_vocabulary_rows(const ExpectedTensor& tensor) {
  return tensor.kind == ExpectedTensor::Kind::kEmbedding ||
         tensor.kind == ExpectedTensor::Kind::kHead;
}

/// Tensors that are stored and not read: the buffers of old checkpoints, and the head of a tied
/// model if it is the embedding again.
bool is_ignored(const Checkpoint& checkpoint, const std::string& name, const HostTensor& tensor) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  const HostTensor* embedding = checkpoint.find("model.embed_tokens.weight");
  return name == "lm_head.weight" && embedding && equal_values(tensor, *embedding);
}

void expect_tensors(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected) {
  std::map<std::string, const ExpectedTensor*> by_name;
  for (const ExpectedTensor& tensor : expected) {
    by_name[tensor.name] = &tensor;
    const HostTensor* got = checkpoint.find(tensor.name);
    if (!got) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\" {} is missing", checkpoint.directory().string(),
           tensor.name, to_string(tensor.shape));
    }
    if (got->shape != tensor.shape) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\" has shape {}, expected {}",
           checkpoint.directory().string(), tensor.name, to_string(got->shape),
           to_string(tensor.shape));
    }
    if (!is_floating(got->dtype) || got->dtype == DType::kF64) {
      fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is {}, expected BF16, F16 or F32",
           checkpoint.directory().string(), tensor.name, dtype_name(got->dtype));
    }
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!by_name.contains(name) && !is_ignored(checkpoint, name, tensor)) {
      fail(ErrorCode::kMismatch,
           "{}: tensor \"{}\" {} is not part of the architecture and would be lost",
           checkpoint.directory().string(), name, to_string(tensor.shape));
    }
  }
}

void expect_finite(const Checkpoint& checkpoint) {
  std::vector<float> row;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const int64_t cols = tensor.cols(), row_bytes = cols * dtype_bytes(tensor.dtype);
    if (!is_floating(tensor.dtype)) continue;
    row.resize(static_cast<size_t>(cols));
    for (int64_t r = 0; r < tensor.rows(); ++r) {
      convert_to_float(tensor.bytes.data() + r * row_bytes, tensor.dtype, row);
      const auto bad =
          std::find_if_not(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
      if (bad != row.end()) {
        fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" holds {} at row {}, column {}",
             checkpoint.directory().string(), name, *bad, r, bad - row.begin());
      }
    }
    release_pages(tensor.bytes);
  }
}

}  // namespace

bool equal_values(const HostTensor& a, const HostTensor& b) {
  if (a.shape != b.shape) return false;
  if (a.dtype == b.dtype && a.bytes.size() == b.bytes.size() &&
      std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0) {
    return true;
  }
  for (int64_t r = 0; r < a.rows(); ++r) {
    if (a.to_float(r, 1) != b.to_float(r, 1)) return false;
  }
  return true;
}

CheckpointPair open_pair(const std::filesystem::path& base,
                         const std::filesystem::path& finetuned) {
  CheckpointPair pair{.base = Checkpoint::open(base),
                      .finetuned = Checkpoint::open(finetuned),
                      .base_config = read_model_config(base),
                      .finetuned_config = read_model_config(finetuned),
                      .tensors = {},
                      .base_hash = {},
                      .finetuned_hash = {}};
  expect_same_architecture(pair.base_config, pair.finetuned_config);
  pair.tensors = expected_tensors(pair.base_config);
  expect_tensors(pair.base, pair.tensors);
  std::vector<ExpectedTensor> of_finetuned = pair.tensors;
  for (ExpectedTensor& tensor : of_finetuned) {
    if (has_vocabulary_rows(tensor)) tensor.shape[0] = pair.finetuned_config.vocab_size;
  }
  expect_tensors(pair.finetuned, of_finetuned);
  expect_finite(pair.base);
  expect_finite(pair.finetuned);
  pair.base_hash = pair.base.content_hash();
  pair.finetuned_hash = pair.finetuned.content_hash();
  return pair;
}

}  // namespace deltacome
