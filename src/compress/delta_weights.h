// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/training_ops.h"
#include "compress/checkpoints.h"
#include "io/archive.h"
#include "model/backward.h"

namespace deltacome {

/// The weights of base + delta in float32, as a backward pass wants them, and the float parameters
/// of the delta that can be trained while its codes stay as they are. All are factors that start at
/// 1: of rows and columns, of singular values, and of norms. Matrices that share an input share
/// their column factors, so that an input is rotated once. Codes are decoded when they are needed,
/// and kept decoded while there is room.
class DeltaWeights final : public TrainedWeights {
 public:
  /// `outer`: a variant with the embedding and the head of the delta. `given`: rows that ids below
  /// 0 stand for.
  DeltaWeights(const Model& model, Stream& stream, const CheckpointPair& pair,
               std::shared_ptr<const DeviceVariant> outer, Tensor given = {});
  ~DeltaWeights() override;

  /// Projection `slot` from now on: the fine-tune's own, the base's, or base + delta. `weight`: the
  /// fine-tune's in the backend's memory; empty = from the checkpoint, again at each use.
  void use_finetuned(int slot, Tensor weight = {});
  void use_base(int slot);
  void use_delta(int slot, const CodedTensor& coded);
  /// Replaces the taking of gradients: (slot, x, dy).
  void on_gradient(std::function<void(int, const Tensor&, const Tensor&)> hook) {
    hook_ = std::move(hook);
  }

  /// Makes the parameters of what is in use now, all 1. columns: column factors too, for codes that
  /// have column gains.
  void create_parameters();
  int64_t n_parameters() const noexcept { return values_.empty() ? 0 : values_.size(); }
  int64_t n_norm_parameters() const noexcept { return n_norms_; }  // the first ones
  const Tensor& values() const noexcept { return values_; }        // f32 [n_parameters]
  const Tensor& gradients() const noexcept { return gradients_; }  // the same, added to
  /// The coded tensor of `slot` with its trained parameters folded in.
  CodedTensor trained(int slot) const;
  /// The fine-tune's norm in `slot` with its trained factors, as f16 values.
  CodedTensor trained_norm(int slot) const;

  Tensor projection(const LinearWeights& w) override;
  Tensor bias(const LinearWeights& w) override;
  Tensor norm(const Weight& w) override;
  Tensor norm_gradient(const Weight& w) override;
  Tensor head_rows(int64_t first, int64_t count) override;
  int64_t vocab_size() override;
  void embed(Stream& stream, std::span<const int32_t> ids, const Tensor& y) override;
  void projection_gradient(const LinearWeights& w, const Tensor& x, const Tensor& dy) override;
  /// Takes the gradients that norms have gathered into those of their factors.
  void finish_gradients();

 private:
  struct Matrix;
  struct Norm;
  struct Decoded;
  Tensor f32_of(const HostTensor& host) const;
  Tensor scratch(size_t which, int64_t rows, int64_t cols);
  Tensor parameter(const Tensor& all, int64_t first, int64_t count) const;
  Matrix& cleared(int slot);
  Decoded decoded(Matrix& matrix);
  Tensor product_of(const Matrix& matrix, const Decoded& decoded);
  std::vector<float> download(const Tensor& t) const;

  const Model& model_;
  Backend& backend_;
  Stream& stream_;
  TrainingOps& ops_;
  const CheckpointPair& pair_;
  std::shared_ptr<const DeviceVariant> outer_;
  Tensor given_;
  std::map<int, Matrix> matrices_;
  std::map<int, Norm> norms_;
  std::map<int, Tensor> biases_;
  std::function<void(int, const Tensor&, const Tensor&)> hook_;
  std::vector<Tensor> scratch_;
  Tensor head_;
  int64_t head_first_ = -1;
  Tensor values_, gradients_;
  int64_t n_norms_ = 0;
  int64_t kept_bytes_ = 0;
};

}  // namespace deltacome
