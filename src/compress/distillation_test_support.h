// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "compress/calibration.h"
#include "compress/delta_weights.h"
#include "compress/distill.h"
#include "compress/fit.h"
#include "quant/vector_codes.h"

namespace deltacome::test {

/// tiny-base, its fine-tune tiny-math as the teacher, and text of the fine-tune's kind.
class DistillationTest : public testing::Test {
 protected:
  static std::filesystem::path data(const std::string& name) {
    return std::filesystem::path(DELTACOME_SOURCE_DIR) / "tests" / "data" / name;
  }

  int slot_of(const std::string& name) const {
    for (size_t slot = 0; slot < pair_.tensors.size(); ++slot) {
      if (pair_.tensors[slot].name == name) return static_cast<int>(slot);
    }
    ADD_FAILURE() << name;
    return -1;
  }
  std::vector<int> projections() const {
    std::vector<int> out;
    for (size_t slot = 0; slot < pair_.tensors.size(); ++slot) {
      if (pair_.tensors[slot].kind == ExpectedTensor::Kind::kProjection)
        out.push_back(static_cast<int>(slot));
    }
    return out;
  }
  const LinearWeights& linear_of(int slot) const {
    for (const LayerWeights& layer : model_.weights().layers) {
      for (const LinearWeights* w :
           {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
        if (w->weight.slot == slot) return *w;
      }
    }
    throw std::out_of_range("slot");
  }

  MatrixFormat format_of(int slot, Codec codec) const {
    const Shape& shape = pair_.tensors[static_cast<size_t>(slot)].shape;
    return {.codec = codec, .shape = shape, .base_rows = shape[0], .dense = {}, .tiers = {}};
  }
  MatrixFormat vector(int slot, int dim) const {
    MatrixFormat format = format_of(slot, Codec::kVector);
    format.vector = {dim, rotation_block(format.n_in()), 3};
    format.col_gain = true;
    return format;
  }
  MatrixFormat low_rank(int slot) const {
    MatrixFormat format = format_of(slot, Codec::kLowRank);
    format.tiers = {{4, {3, 0, 0}, {4, 0, 0}}, {12, {1, 0, 0}, {2, 0, 0}}};
    format.row_gain = format.col_gain = true;
    return format;
  }

  Tensor delta(int slot) {
    const ExpectedTensor& tensor = pair_.tensors[static_cast<size_t>(slot)];
    const Tensor d = backend_->allocate(DType::kF64, tensor.shape);
    backend_->compression().subtract(*stream_,
                                     backend_->import_weight(pair_.finetuned.at(tensor.name)),
                                     backend_->import_weight(pair_.base.at(tensor.name)), d);
    return d;
  }
  CodedTensor encode(int slot, const MatrixFormat& format) {
    InputFit input(*backend_, *stream_, {}, format.n_in());
    return encode_fit(*backend_, *stream_, pair_.tensors[static_cast<size_t>(slot)].name, format,
                      delta(slot), input);
  }

  /// Pieces [first, first + count) of the text, each of `length` tokens.
  TaughtText taught(size_t first, size_t count, size_t length) const {
    TaughtText text;
    std::vector<int32_t> all;
    for (const auto& sequence : text_) all.insert(all.end(), sequence.begin(), sequence.end());
    for (size_t i = first; i < first + count; ++i) {
      const auto at = all.begin() + static_cast<int64_t>(i * length);
      text.sequences.emplace_back(at, at + static_cast<int64_t>(length));
    }
    text.targets = top_targets(teacher_, {}, *stream_, text.sequences, 16);
    return text;
  }

  std::vector<float> download(const Tensor& t) const {
    std::vector<float> out(static_cast<size_t>(t.size()));
    backend_->download(*stream_, t, std::as_writable_bytes(std::span(out)));
    return out;
  }
  void upload(const std::vector<float>& from, const Tensor& to) const {
    backend_->upload(*stream_, std::as_bytes(std::span(from)), to);
  }

  std::unique_ptr<Backend> backend_ = create_cpu_backend(2);
  std::unique_ptr<Stream> stream_ = backend_->create_stream();
  CheckpointPair pair_ = open_pair(
      {.base = data("models/tiny-base"), .finetuned = data("models/tiny-math"), .out = {}});
  Model model_{*backend_, pair_.base, pair_.base_config};
  Model teacher_{*backend_, pair_.finetuned, pair_.finetuned_config};
  std::vector<std::vector<int32_t>> text_ = calibration_sequences(
      {data("calib/math.jsonl")}, Tokenizer::load(data("models/tiny-base")), 1, 2, 4096, 5);
};

}  // namespace deltacome::test
