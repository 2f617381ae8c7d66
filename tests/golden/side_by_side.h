// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "io/safetensors.h"
#include "model/model.h"

namespace deltacome::test {

/// How far the logits of a model on one backend are from those on another.
struct Difference {
  double mean_kl = 0, largest_kl = 0;  // KL(reference || other), nats
  double largest_logit = 0;            // largest difference of a logit
  int64_t tokens = 0, other_top1 = 0;  // of them with another most likely token

  void add(const std::vector<float>& reference, const std::vector<float>& other, int64_t vocab) {
    const auto n = static_cast<size_t>(vocab);
    for (size_t row = 0; row + n <= reference.size(); row += n) {
      const float *p = reference.data() + row, *q = other.data() + row;
      const double log_p = log_sum(p, n), log_q = log_sum(q, n);
      double kl = 0;
      for (size_t i = 0; i < n; ++i) {
        const double a = static_cast<double>(p[i]), b = static_cast<double>(q[i]);
        kl += std::exp(a - log_p) * ((a - log_p) - (b - log_q));
        if (!(std::abs(a - b) <= largest_logit)) largest_logit = std::abs(a - b);
      }
      mean_kl += (kl - mean_kl) / static_cast<double>(++tokens);
      if (!(kl <= largest_kl)) largest_kl = kl;
      other_top1 += std::max_element(p, p + n) - p != std::max_element(q, q + n) - q;
    }
  }

 private:
  static double log_sum(const float* x, size_t n) {
    const auto largest = static_cast<double>(*std::max_element(x, x + n));
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - largest);
    return largest + std::log(sum);
  }
};

/// A model on a backend, and its logits of one text: a prompt in chunks, then token by token.
class RunningModel {
 public:
  RunningModel(Backend& backend, const Checkpoint& checkpoint, const ModelConfig& config,
               DType kv_dtype)
      : backend_(backend),
        stream_(backend.create_stream()),
        model_(backend, checkpoint, config, WeightFormat::kStored, kv_dtype) {}

  /// [tokens, vocabulary]. The first n_prompt tokens go in chunks of `chunk`.
  std::vector<float> logits(const std::vector<int32_t>& ids, int64_t n_prompt, int64_t chunk) {
    const auto n = static_cast<int64_t>(ids.size());
    KvCache cache(backend_, model_.config(), model_.config().n_layers, KvCache::blocks_for(n),
                  model_.kv_dtype());
    Sequence sequence;
    std::vector<float> out;
    for (int64_t at = 0, count = 0; at < n; at += count) {
      count = at < n_prompt ? std::min(chunk, n_prompt - at) : 1;
      const BatchItem item{
          {ids.data() + at, static_cast<size_t>(count)}, &sequence, {}, BatchItem::Rows::kAll};
      const HiddenRows rows = model_.forward(*stream_, {&item, 1}, cache);
      std::vector<float> part(static_cast<size_t>(count * rows.vocab_size));
      backend_.download(*stream_, model_.logits(*stream_, rows, 0, count),
                        std::as_writable_bytes(std::span(part)));
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }
  const ModelConfig& config() const noexcept { return model_.config(); }

 private:
  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  Model model_;
};

/// The checkpoint with its weights as another floating type.
inline Checkpoint converted(const Checkpoint& checkpoint, DType dtype) {
  std::map<std::string, HostTensor> tensors;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const std::vector<float> values = tensor.to_float();
    std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
    convert_from_float(values, dtype, bytes.data());
    tensors[name] = HostTensor::of(dtype, tensor.shape, std::move(bytes));
  }
  return Checkpoint::of(std::move(tensors), checkpoint.directory());
}

/// Texts of random tokens, each a prompt and then single tokens, on both backends.
inline Difference compare(Backend& reference, Backend& other, const Checkpoint& checkpoint,
                          const ModelConfig& config, DType kv_dtype, int64_t n_texts,
                          int64_t n_prompt, int64_t n_single) {
  RunningModel a(reference, checkpoint, config, kv_dtype), b(other, checkpoint, config, kv_dtype);
  Difference difference;
  uint32_t state = 1;
  for (int64_t text = 0; text < n_texts; ++text) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n_prompt + n_single; ++i) {
      state = state * 1664525u + 1013904223u;
      ids.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(config.vocab_size)));
    }
    const int64_t chunk = text % 2 == 0 ? n_prompt : 37;
    difference.add(a.logits(ids, n_prompt, chunk), b.logits(ids, n_prompt, chunk),
                   config.vocab_size);
  }
  return difference;
}

}  // namespace deltacome::test
