// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

/// What is known of the base when variants are loaded.
struct BaseIdentity {
  std::filesystem::path directory;
  std::string content_hash;
  ModelConfig config;
};

/// A variant on disk, archive or LoRA adapter, checked but for the bytes of its tensors: what a
/// server needs to know before it makes room for it. The tensors are then loaded one by one, so
/// that the load can be watched and given up.
class VariantFiles {
 public:
  /// Throws what Archive, PeftAdapter and check_base() throw.
  static VariantFiles open(const std::filesystem::path& directory, const BaseIdentity& base);

  /// Of everything that the variant computes: equal hashes, equal results on the same base.
  const std::string& content_hash() const noexcept { return content_hash_; }
  const ModelConfig& config() const noexcept { return config_; }  // the fine-tune's
  const std::filesystem::path& text_directory() const noexcept { return text_directory_; }
  /// Where it says how pictures are prepared, if it takes any.
  const std::filesystem::path& vision_directory() const noexcept { return vision_directory_; }
  int64_t tensor_bytes() const noexcept { return tensor_bytes_; }

  /// Loads every tensor into memory of its own: afterwards nothing of the directory is needed.
  /// before_tensor(bytes loaded so far) may throw to give up. Throws what load_variant() throws.
  std::shared_ptr<DeviceVariant> load(Backend& backend, Stream& stream, const BaseIdentity& base,
                                      const std::function<void(int64_t)>& before_tensor);

  /// What holds the tensors of its vision tower (its own in memory of their own), if it has one.
  /// Throws as vision_tensors(). Before or after load().
  Checkpoint load_vision(Backend& backend, Stream& stream, const BaseIdentity& base) const;

 private:
  std::variant<std::monostate, Archive, std::vector<CodedTensor>> tensors_;
  std::string content_hash_;
  ModelConfig config_;
  std::filesystem::path text_directory_, vision_directory_;
  int64_t tensor_bytes_ = 0;
  std::string where_;
};

}  // namespace deltacome
