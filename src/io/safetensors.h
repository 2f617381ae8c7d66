// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/host_tensor.h"
#include "io/files.h"
#include "io/quantized_weights.h"

namespace deltacome {

/// One safetensors file, mapped; or the same bytes in memory. Format: u64 little-endian header
/// size, JSON header {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}, data. Every
/// check of untrusted bytes is made when it is opened: the header is at most 100 MB, is one JSON
/// object without duplicate names, shapes and offsets do not overflow, each entry has the bytes of
/// its shape, and the entries tile the data section without gap, overlap or trailing bytes.
/// Thread-safe after opening.
class SafetensorsFile {
 public:
  /// Throws kNotFound, kIo; kCorrupt with one sentence that names file, tensor, got and expected;
  /// kUnsupported for a dtype that deltacome does not read (named).
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same for bytes in memory; `name` stands for the file in messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                               const std::string& name);

  const std::map<std::string, HostTensor>& tensors() const noexcept { return tensors_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// The 8 size bytes and the JSON header, as stored.
  std::span<const std::byte> header_bytes() const noexcept { return header_; }
  const HostTensor* find(const std::string& name) const noexcept;  // null if absent
  const HostTensor& at(const std::string& name) const;  // throws kNotFound naming file and tensor

 private:
  std::map<std::string, HostTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> header_;
  std::string name_;
};

/// Lower-case hex SHA-256 over tensors sorted by name: for each the line
/// "name\tdtype\t[d0, d1]\tsha256-of-bytes\n". Sharding and file order do not matter.
std::string content_hash(const std::map<std::string, HostTensor>& tensors);

/// The tensors of a Hugging Face checkpoint directory: model.safetensors, or the shards that
/// model.safetensors.index.json names, or the same of pytorch_model.bin. Weights that
/// quantization_config of config.json describes are held apart, as codes.
class Checkpoint {
 public:
  /// Throws as SafetensorsFile::open, read_torch_file() and take_quantized_weights(); kNotFound if
  /// the directory has none of these files (and says what it has); kCorrupt if index and shards
  /// disagree (a tensor listed but absent from its shard, in two shards, or a shard name that
  /// leaves the directory).
  static Checkpoint open(const std::filesystem::path& directory);

  /// Tensors that are in memory already; `name` stands for the directory in messages. With an
  /// `identity` that is their content hash.
  static Checkpoint of(std::map<std::string, HostTensor> tensors, std::filesystem::path name,
                       std::string identity = {}) {
    Checkpoint out;
    out.directory_ = std::move(name);
    out.tensors_ = std::move(tensors);
    out.identity_ = std::move(identity);
    return out;
  }

  /// All tensors but quantized weights.
  const std::map<std::string, HostTensor>& tensors() const noexcept { return tensors_; }
  const HostTensor* find(const std::string& name) const noexcept;
  const HostTensor& at(const std::string& name) const;
  const QuantizedWeights& quantized() const noexcept { return quantized_; }
  const QuantizedWeight* find_quantized(const std::string& name) const noexcept;
  /// How the weights are quantized, "GPTQ, 4 bits, groups of 128"; empty: they are not.
  std::string scheme() const { return quantized_.empty() ? "" : quantized_.begin()->second.scheme; }
  const std::filesystem::path& directory() const noexcept { return directory_; }
  int64_t total_bytes() const noexcept;  // of tensors()

  /// The same with quantized weights among the tensors: dequantized, in memory, in the type that
  /// the checkpoint computes in. Its content hash is still that of the files.
  Checkpoint dequantized() const;

  /// Of the tensors as they are stored, so of the codes of quantized weights.
  std::string content_hash() const {
    if (!identity_.empty()) return identity_;
    return deltacome::content_hash(stored_.empty() ? tensors_ : stored_);
  }

 private:
  /// A vision tower and projector run in the type that the checkpoint computes in.
  void expand_quantized_vision();

  std::filesystem::path directory_;
  std::map<std::string, HostTensor> tensors_;
  std::string identity_;
  std::map<std::string, HostTensor> stored_;  // empty: tensors_
  QuantizedWeights quantized_;
};

/// What a tensor will be, before its bytes are written.
struct TensorSpec {
  std::string name;
  DType dtype;
  Shape shape;
};

/// Streams one safetensors file: all specs first, then the bytes of each tensor in that order, in
/// any number of pieces. The file appears under its name (fsync, rename) in finish(); an abandoned
/// writer leaves nothing.
class SafetensorsWriter {
 public:
  /// Throws kInvalidArgument on duplicate names, kIo.
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                    std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// The next bytes of the data section. Throws kIo, kInternal if more than promised.
  void append(std::span<const std::byte> bytes);
  /// Throws kInternal if bytes are missing, kIo.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace deltacome
