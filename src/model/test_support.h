// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/model.h"

namespace deltacome::testing {

/// One of the tiny models of tests/data/goldens, on the CPU, and a fine-tune of it as a variant.
struct TinyModel {
  explicit TinyModel(const std::string& name) : TinyModel(Checkpoint::open(path(name)), name) {}

  std::unique_ptr<Backend> backend = create_cpu_backend(2);
  std::unique_ptr<Stream> stream = backend->create_stream();
  Model model;
  Variant tuned;  // every tensor with 20 % of noise

  std::vector<float> download(const Tensor& x) const {
    std::vector<float> out(static_cast<size_t>(x.size()));
    backend->download(*stream, x, std::as_writable_bytes(std::span(out)));
    return out;
  }

  /// Logits [n_positions, vocab] of Model::forward at every position of every sequence.
  std::vector<float> logits(const Variant& variant,
                            const std::vector<std::vector<int32_t>>& sequences) const {
    KvCache cache(*backend, model.config(), model.config().n_layers, 64);
    std::vector<Sequence> states(sequences.size());
    std::vector<BatchItem> items;
    for (size_t i = 0; i < sequences.size(); ++i)
      items.push_back({sequences[i], &states[i], variant, BatchItem::Rows::kAll});
    const HiddenRows rows = model.forward(*stream, items, cache);
    return download(model.logits(*stream, rows, 0, rows.hidden.rows()));
  }

  std::vector<std::vector<int32_t>> random_sequences(const std::vector<int64_t>& lengths) const {
    std::mt19937 rng(7);
    std::uniform_int_distribution<int32_t> id(0,
                                              static_cast<int32_t>(model.config().vocab_size) - 1);
    std::vector<std::vector<int32_t>> out;
    for (const int64_t n : lengths) {
      out.emplace_back(static_cast<size_t>(n));
      for (int32_t& token : out.back()) token = id(rng);
    }
    return out;
  }

 private:
  static std::filesystem::path path(const std::string& name) {
    return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests" / "data" / "goldens" / name;
  }
  TinyModel(const Checkpoint& checkpoint, const std::string& name)
      : model(*backend, checkpoint, read_model_config(path(name))) {
    std::mt19937 rng(11);
    std::normal_distribution<float> normal(0, 1);
    const std::vector<ExpectedTensor> expected = expected_tensors(model.config());
    const auto variant = backend->create_variant(static_cast<int>(expected.size()));
    for (size_t slot = 0; slot < expected.size(); ++slot) {
      std::vector<float> values = checkpoint.at(expected[slot].name).to_float();
      double squares = 0;
      for (const float v : values) squares += static_cast<double>(v) * static_cast<double>(v);
      const auto scale =
          static_cast<float>(0.2 * std::sqrt(squares / static_cast<double>(values.size())));
      for (float& v : values) v += scale * normal(rng);
      MatrixFormat format;
      format.codec = Codec::kRaw;
      format.shape = expected[slot].shape;
      format.raw_dtype = DType::kF32;
      std::vector<std::byte> blob(static_cast<size_t>(layout_of(format).total_bytes));
      std::ranges::copy(std::as_bytes(std::span(values)), blob.begin());
      const auto n_bytes = static_cast<int64_t>(blob.size());
      variant->set(static_cast<int>(slot), format,
                   HostTensor::of(DType::kU8, {n_bytes}, std::move(blob)), *stream);
    }
    tuned.device = variant;
  }
};

/// Log softmax of a row, in float64.
inline std::vector<double> log_softmax(std::span<const float> row) {
  const double largest = static_cast<double>(*std::ranges::max_element(row));
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v) - largest);
  std::vector<double> out;
  for (const float v : row) out.push_back(static_cast<double>(v) - largest - std::log(sum));
  return out;
}

}  // namespace deltacome::testing
