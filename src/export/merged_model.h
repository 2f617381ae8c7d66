// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "delta/base_model.h"
#include "delta/finetune.h"
#include "deltacome/export.h"
#include "export/combine.h"

namespace deltacome {

/// The model that parts stand for, as dense tensors, one at a time. One thread.
class MergedModel {
 public:
  /// Throws kInvalidArgument for weights and densities that make no sense, kMismatch for fine-tunes
  /// whose vocabularies have different sizes, and what open_base() and Finetune::open() throw.
  explicit MergedModel(const ModelParts& parts);

  /// Configuration and files are the first fine-tune's.
  const ModelConfig& config() const noexcept { return config_; }
  const std::vector<ExpectedTensor>& tensors() const noexcept { return tensors_; }
  std::vector<CompanionFile> companions() const;

  /// The type in which the first fine-tune's checkpoint holds the tensor.
  DType dtype(const ExpectedTensor& tensor) const;
  HostTensor read(const ExpectedTensor& tensor, DType dtype) const;
  /// Vision tower and projector of the first fine-tune; empty without.
  Checkpoint vision() const;

 private:
  HostTensor combined(const ExpectedTensor& tensor, DType dtype) const;

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  BaseModel base_;
  std::vector<Finetune> finetunes_;
  CombineRule rule_;
  ModelConfig config_;
  std::vector<ExpectedTensor> tensors_;
};

}  // namespace deltacome
