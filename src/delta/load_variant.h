// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "backend/backend.h"
#include "io/archive.h"
#include "io/model_config.h"
#include "io/peft_adapter.h"

namespace deltacome {

/// Puts an archive's tensors, packed as they are, into a backend's memory, each at its slot: its
/// index in expected_tensors(base). Every blob's hash is checked on the way. All or nothing: throws
/// kCorrupt, and kMismatch for a tensor that the base does not have or with a shape that does not
/// fit it.
std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const Archive& archive, const ModelConfig& base);

/// The same for a LoRA adapter, coded on the way. Throws what PeftAdapter::encode() throws.
std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const PeftAdapter& adapter, const ModelConfig& base);

/// A variant ready to run: its tensors, and what it brings besides.
struct OpenedVariant {
  std::shared_ptr<DeviceVariant> device;
  ModelConfig config;                      // the fine-tune's: vocabulary, stop ids
  std::filesystem::path text_directory;    // where its tokenizer is: its own, or else the base
  Checkpoint vision;                       // holds the tensors of its vision tower, if it has one
  std::filesystem::path vision_directory;  // where it says how pictures are prepared
};

/// Opens an archive for a base: checks every file of it and that it was made from `base`, then
/// loads it. Or a LoRA adapter in PEFT's layout, which fits every base of its architecture and
/// shapes. Throws what Archive, PeftAdapter and load_variant() throw.
OpenedVariant open_variant(Backend& backend, Stream& stream, const std::filesystem::path& directory,
                           const Checkpoint& base, const ModelConfig& base_config);

}  // namespace deltacome
