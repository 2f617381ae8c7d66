// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// The configuration of an archive's fine-tune. Throws what read_model_config() throws, kMismatch
/// if it is of another architecture than the base, or of a vocabulary that is not that of its
/// embedding and head: the archive's own, or else the base's.
ModelConfig read_variant_config(const Archive& archive, const ModelConfig& base);

/// Puts coded tensors into a new variant, each at its slot.
class VariantLoader {
 public:
  /// `where` begins the messages.
  VariantLoader(Backend& backend, Stream& stream, const ModelConfig& base, std::string where);

  const std::vector<ExpectedTensor>& expected() const noexcept { return expected_; }
  /// The slot of a tensor. Throws kMismatch if the base lacks it or the shapes do not fit,
  /// kUnsupported for a codec that no op of this kind of tensor decodes.
  int slot_of(const std::string& name, const MatrixFormat& format) const;
  void set(int slot, const MatrixFormat& format, const HostTensor& blob);
  std::shared_ptr<DeviceVariant> finish();

 private:
  Stream& stream_;
  std::string where_;
  std::vector<ExpectedTensor> expected_;
  std::map<std::string, int> slots_;
  std::shared_ptr<DeviceVariant> variant_;
};

}  // namespace deltacome
