// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>

#include "core/check.h"
#include "model/rope.h"

namespace deltacome {
namespace {

/// Finds weights by their transformers name.
class Finder {
 public:
  Finder(Backend& backend, const Checkpoint& checkpoint,
         const std::vector<ExpectedTensor>& expected, WeightFormat format)
      : backend_(backend), checkpoint_(checkpoint), format_(format) {
    for (size_t i = 0; i < expected.size(); ++i) slots_[expected[i].name] = static_cast<int>(i);
  }

  Weight find(const std::string& name) {  // empty if the architecture does not have it
    const auto slot = slots_.find(name);
    if (slot == slots_.end()) return {};
    return {slot->second, backend_.import_weight(checkpoint_.at(name))};
  }
  Weight projection(const std::string& name) {
    const int slot = slots_.at(name);
    const QuantizedWeight* quantized = checkpoint_.find_quantized(name);
    if (quantized == nullptr)
      return {slot, backend_.import_projection(checkpoint_.at(name), format_)};
    const QuantizedMatrix matrix = quantized->read();
    if (format_ != WeightFormat::kStored)
      return {slot, backend_.import_projection(matrix.dequantize(), format_)};
    QuantizedImport held = backend_.import_quantized(matrix);
    quantized_bytes_ += held.bytes;
    quantized_error_ = std::max(quantized_error_, held.relative_error);
    return {slot, std::move(held.tensor)};
  }
  int64_t quantized_bytes() const noexcept { return quantized_bytes_; }
  double quantized_error() const noexcept { return quantized_error_; }
  LinearWeights linear(const std::string& prefix) {
    return {projection(prefix + ".weight"), find(prefix + ".bias")};
  }

 private:
  Backend& backend_;
  const Checkpoint& checkpoint_;
  WeightFormat format_;
  std::map<std::string, int> slots_;
  int64_t quantized_bytes_ = 0;
  double quantized_error_ = 0;
};

void check_quantized(const Checkpoint& checkpoint, const ExpectedTensor& want,
                     const QuantizedWeight& got) {
  const std::string where =
      fmt::format("{}: tensor \"{}\"", checkpoint.directory().string(), want.name);
  if (got.shape != want.shape) {
    fail(ErrorCode::kMismatch, "{} ({}) has shape {}, its config.json asks for {}", where,
         got.scheme, to_string(got.shape), to_string(want.shape));
  }
  using Kind = ExpectedTensor::Kind;
  if (want.kind != Kind::kProjection && want.kind != Kind::kHead) {
    fail(ErrorCode::kUnsupported, "{} is {}; expected codes of projections and lm_head only", where,
         got.scheme);
  }
}

}  // namespace

std::map<int, Tensor> projections_of(const ModelWeights& weights) {
  std::map<int, Tensor> out;
  for (const LayerWeights& layer : weights.layers) {
    for (const LinearWeights* w :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      out[w->weight.slot] = w->weight.tensor;
  }
  return out;
}

void check_tensors(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected) {
  for (const ExpectedTensor& want : expected) {
    if (const QuantizedWeight* quantized = checkpoint.find_quantized(want.name)) {
      check_quantized(checkpoint, want, *quantized);
      continue;
    }
    const HostTensor& got = checkpoint.at(want.name);
    if (got.shape != want.shape) {
      fail(ErrorCode::kMismatch, "{}: tensor \"{}\" has shape {}, its config.json asks for {}",
           checkpoint.directory().string(), want.name, to_string(got.shape), to_string(want.shape));
    }
    if (!is_floating(got.dtype) || got.dtype == DType::kF64) {
      fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is {}, expected BF16, F16 or F32",
           checkpoint.directory().string(), want.name, dtype_name(got.dtype));
    }
  }
}

ModelWeights load_weights(Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
                          WeightFormat format) {
  using Kind = ExpectedTensor::Kind;
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  check_tensors(checkpoint, expected);
  Finder finder(backend, checkpoint, expected, format);
  ModelWeights out;
  for (const ExpectedTensor& tensor : expected) {
    if (const QuantizedWeight* quantized = checkpoint.find_quantized(tensor.name)) {
      if (format != WeightFormat::kStored)
        out.bytes += weight_bytes(format, quantized->dtype, quantized->shape);
      continue;
    }
    const HostTensor& host = checkpoint.at(tensor.name);
    const bool projection = tensor.kind == Kind::kProjection || tensor.kind == Kind::kHead;
    const bool copied_head = tensor.kind == Kind::kEmbedding && config.tied_embeddings &&
                             format != WeightFormat::kStored;
    out.bytes += weight_bytes(projection ? format : WeightFormat::kStored, host.dtype, host.shape);
    if (copied_head) out.bytes += weight_bytes(format, host.dtype, host.shape);
  }
  out.embedding = finder.find("model.embed_tokens.weight");
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    out.layers.push_back({.input_norm = finder.find(layer + "input_layernorm.weight"),
                          .post_norm = finder.find(layer + "post_attention_layernorm.weight"),
                          .q_norm = finder.find(attention + "q_norm.weight"),
                          .k_norm = finder.find(attention + "k_norm.weight"),
                          .q = finder.linear(attention + "q_proj"),
                          .k = finder.linear(attention + "k_proj"),
                          .v = finder.linear(attention + "v_proj"),
                          .o = finder.linear(attention + "o_proj"),
                          .gate = finder.linear(mlp + "gate_proj"),
                          .up = finder.linear(mlp + "up_proj"),
                          .down = finder.linear(mlp + "down_proj")});
  }
  out.final_norm = finder.find("model.norm.weight");
  const bool shared = config.tied_embeddings && format == WeightFormat::kStored;
  out.head = shared ? out.embedding
                    : finder.projection(config.tied_embeddings ? "model.embed_tokens.weight"
                                                               : "lm_head.weight");
  out.bytes += finder.quantized_bytes();
  out.quantized_error = finder.quantized_error();
  out.inv_freq = backend.import_weight(HostTensor::of(
      DType::kF32, {config.head_dim / 2}, rope_frequencies(config.rope, config.head_dim)));
  return out;
}

}  // namespace deltacome
