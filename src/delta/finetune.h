// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// A fine-tune of a base in any form in which people hold it: an archive, a LoRA adapter in PEFT's
/// layout, or a checkpoint of its own. Its tensors are dense, one at a time.
class Finetune {
 public:
  /// Checks every file of an archive, and that the fine-tune fits the base. Throws what Archive,
  /// PeftAdapter and Checkpoint throw; kMismatch for another architecture, for tensors that are
  /// missing, have other shapes than its configuration says or that the architecture lacks.
  static Finetune open(const std::filesystem::path& directory, const Checkpoint& base,
                       const ModelConfig& base_config);

  const std::filesystem::path& directory() const noexcept { return directory_; }
  /// Of what it computes: the archive's, the adapter's, or the checkpoint's content hash.
  std::string content_hash() const;
  const char* form() const noexcept;  // "archive", "adapter", "checkpoint"
  const ModelConfig& config() const noexcept { return config_; }
  const std::vector<ExpectedTensor>& tensors() const noexcept { return tensors_; }
  /// Where the files beside its weights are; those that it lacks are the base's.
  std::vector<CompanionFile> companions(const std::filesystem::path& base) const;

  /// False: the tensor is the base's.
  bool changes(const std::string& name) const;
  /// The type in which its own checkpoint holds the tensor.
  DType dtype(const HostTensor& base, const std::string& name) const;
  /// The tensor in `dtype`; bytes of the base or checkpoint where nothing has to be computed.
  HostTensor read(Backend& backend, Stream& stream, const HostTensor& base,
                  const ExpectedTensor& tensor, DType dtype) const;
  /// Its vision tower and projector; empty for a model without.
  Checkpoint vision(Backend& backend, Stream& stream, const Checkpoint& base) const;
  /// All of it: what is computed in memory, the rest in the files where it is. `identity` as in
  /// Checkpoint::of().
  Checkpoint materialize(Backend& backend, Stream& stream, const Checkpoint& base,
                         const std::string& identity) const;

 private:
  void check_archive(const Archive& archive, const Checkpoint& base) const;

  std::filesystem::path directory_;
  ModelConfig config_;
  std::vector<ExpectedTensor> tensors_;
  std::variant<Archive, std::map<std::string, CodedTensor>, Checkpoint> source_;
  std::string adapter_hash_;
};

/// `tensor` in `dtype`, the same bytes if it has it.
HostTensor converted(const HostTensor& tensor, DType dtype);

}  // namespace deltacome
