// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/archive.h"
#include "io/model_config.h"
#include "io/safetensors.h"

namespace deltacome {

/// One matrix that an adapter changes: delta = scale * B A.
struct LoraModule {
  std::string name;    // of the base's tensor: "model.layers.0.self_attn.q_proj.weight"
  std::string prefix;  // of its own: "base_model.model.model.layers.0.self_attn.q_proj"
  HostTensor a;        // [rank, n_in]
  HostTensor b;        // [n_out, rank]
  double scale = 1;    // alpha / rank

  int64_t rank() const noexcept { return a.rows(); }
  Shape shape() const { return {b.rows(), a.cols()}; }  // of the delta
  int64_t stored_bytes() const noexcept {
    return static_cast<int64_t>(a.bytes.size() + b.bytes.size());
  }
};

/// One tensor that an adapter replaces: of a module of modules_to_save, or embeddings that PEFT
/// saves because they were resized.
struct WholeTensor {
  std::string name;         // of the base's tensor: "lm_head.weight"
  std::string stored_name;  // of its own: "base_model.model.lm_head.weight"
  HostTensor tensor;
};

/// Whether a directory holds an adapter in PEFT's layout (adapter_config.json) and is no archive.
bool is_peft_adapter(const std::filesystem::path& directory);

/// A LoRA adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors or .bin.
class PeftAdapter {
 public:
  /// Reads and checks both files. Throws as PeftConfig, SafetensorsFile and read_torch_file();
  /// kUnsupported for tensors that are neither lora_A nor lora_B weights nor stored whole by
  /// modules_to_save, or not in F32, F16 or BF16; kMismatch for an A without a B, for a module of
  /// modules_to_save that is missing or adapted too, and for shapes that contradict each other or
  /// the configuration; kCorrupt for NaN and infinity.
  static PeftAdapter open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const noexcept { return directory_; }
  const std::string& base_name() const noexcept { return base_name_; }  // empty if it names none
  const std::vector<LoraModule>& modules() const noexcept { return modules_; }  // by name
  const std::vector<WholeTensor>& wholes() const noexcept { return wholes_; }   // by name
  std::string content_hash() const;           // of its tensors, as Checkpoint::content_hash()
  int64_t file_bytes() const;                 // of both files
  int64_t tokenizer_bytes() const;            // of the tokenizer's files that it brings
  bool has_tokenizer() const;                 // or else the base's is its own
  bool has_type(DType dtype) const noexcept;  // a weight of this type

  /// The adapter as coded tensors in the base's order: for each matrix one low-rank tier of fp16
  /// V = A and U = B; tensors that are stored whole are kept so, and fused
  /// projections (Phi-3) taken apart. Powers of two are moved between
  /// factors and s, so that values neither overflow nor lose bits to fp16's short exponent: BF16
  /// and F16 weights stay exact as long as the values of a component span fewer than 28 binary
  /// orders. Throws kMismatch for a module that is neither a projection nor the head of the base
  /// and for shapes that do not fit it, kUnsupported for a rank above the matrix's and for head and
  /// embeddings that a base ties and the adapter does not, kCorrupt if a delta overflows.
  std::vector<CodedTensor> encode(const std::vector<ExpectedTensor>& base) const;

  /// The configuration of base + adapter: files that the adapter has are its own, others the
  /// base's. Throws kMismatch if it asks for another architecture than the base's, or for another
  /// vocabulary than its embeddings or else the base's have.
  ModelConfig model_config(const std::filesystem::path& base_directory,
                           const ModelConfig& base) const;

 private:
  std::filesystem::path directory_;
  std::string base_name_;
  Checkpoint file_;  // its directory() is the file of tensors
  std::vector<LoraModule> modules_;
  std::vector<WholeTensor> wholes_;
  bool embeddings_alone_ = false;  // a head that is tied to them in the base stays the base's
};

}  // namespace deltacome
