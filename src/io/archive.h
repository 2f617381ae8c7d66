// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/host_tensor.h"
#include "io/safetensors.h"
#include "quant/format.h"

namespace deltacome {

/// What was measured on one tensor when it was compressed; negative = not measured.
struct TensorStats {
  double relative_error = -1;  // E|(dW' - dW) x|^2 / E|dW x|^2 over the calibration inputs
  double energy = -1;          // share of |dW|_F^2 in the kept components
  double stable_rank = -1;     // |dW|_F^2 / s_1^2
};

/// One tensor of the fine-tune, coded.
struct CodedTensor {
  std::string name;
  MatrixFormat format;
  std::vector<std::byte> blob;  // layout_of(format).total_bytes
  TensorStats stats;
};

/// A tensor kept whole, in its own type.
CodedTensor encode_raw(const std::string& name, const HostTensor& tensor);

/// One tensor as delta_config.json describes it.
struct ArchiveTensor {
  std::string name;
  MatrixFormat format;
  std::string sha256;  // of its blob
  TensorStats stats;
};

struct CalibrationInfo {
  std::vector<std::string> files;  // names, without their directories
  int64_t tokens = 0;              // 0 = none: rounded to nearest
  int64_t sequence_length = 0;
  uint64_t seed = 0;
};

/// Fidelity on held-out text, if it was asked for.
struct HeldOutFidelity {
  std::string file;
  int64_t tokens = 0;
  double kl = 0;
  double top1 = 0;
};

/// The archive that, with a base, is the base of another archive.
struct ParentArchive {
  std::string name;
  std::string hash;  // its Archive::content_hash()
};

/// delta_config.json.
struct ArchiveConfig {
  std::string created_by;
  std::string method;        // "come", "lowrank", "bitdelta", "lora"
  std::string architecture;  // "LlamaForCausalLM"
  std::string base_name;
  std::string base_hash;          // Checkpoint::content_hash() of the base
  std::string base_quantization;  // Checkpoint::scheme() of the base; the delta is of its values
  std::optional<ParentArchive> parent;  // the base is base_name with this archive on it
  std::string finetuned_name;
  std::string finetuned_hash;
  int64_t finetuned_parameters = 0;      // of the whole fine-tune
  std::optional<DType> finetuned_dtype;  // of its matrices; absent: the base's
  int64_t projection_weights = 0;        // the denominator of bits per weight
  double requested_bits = 0;
  CalibrationInfo calibration;
  std::optional<HeldOutFidelity> held_out;
  std::vector<ArchiveTensor> tensors;  // those that differ from the base, in model order
  std::vector<std::string> files;      // every file of the archive but the manifest and this one
};

/// A compressed delta on disk: delta_config.json, delta.safetensors (one U8 tensor, the blob, per
/// coded tensor), the fine-tune's configuration and tokenizer, and MANIFEST.sha256, which hashes
/// every other file in the format of sha256sum. docs/format.md is the normative description.
class Archive {
 public:
  /// Reads and checks manifest, configuration and tensor header. Throws kNotFound, kCorrupt naming
  /// file and fault, kUnsupported for a newer format version or an unknown codec.
  static Archive open(const std::filesystem::path& directory);

  const ArchiveConfig& config() const noexcept { return config_; }
  const std::filesystem::path& directory() const noexcept { return directory_; }
  /// The stored bytes of a tensor, mapped; their hash is checked at every call. Throws kCorrupt.
  HostTensor blob(const ArchiveTensor& tensor) const;
  const ArchiveTensor* find(const std::string& name) const noexcept;
  /// The same bytes in memory of their own, read once: what is hashed is what is returned, even if
  /// somebody writes to the file meanwhile.
  std::vector<std::byte> read_blob(const ArchiveTensor& tensor) const;
  /// Tells the system that all blobs will be read soon, so that the disk is kept busy. May wait for
  /// the disk's queue.
  void will_read_all() const noexcept;
  /// Throws kMismatch naming both if `base` is neither the checkpoint that this delta was made from
  /// nor one that is recorded as that in low precision (relate_bases()).
  void check_base(const Checkpoint& base) const;
  /// The same for a base whose content hash is known.
  void check_base(const std::filesystem::path& base, const std::string& hash) const;
  /// Checks a file of the archive against the manifest before somebody reads it; throws kCorrupt.
  void check_file(const std::string& name) const;
  /// The same for every file of the manifest.
  void check_files() const;
  /// The same but for the tensors, whose blobs have hashes of their own.
  void check_companions() const;
  /// Of all that the delta computes: the hash of delta_config.json, which has formats and hashes of
  /// all blobs.
  const std::string& content_hash() const;

  int64_t file_bytes(const std::string& name) const;  // size of one file on disk; 0 if absent
  int64_t all_in_bytes() const;                       // every file but the tokenizer's
  int64_t tensor_bytes() const;                       // all blobs

  /// Hashes everything. Throws kCorrupt at the first fault; returns notes about files that are in
  /// the directory but not part of the archive.
  std::vector<std::string> verify() const;

 private:
  void check_blob(const ArchiveTensor& tensor, std::span<const std::byte> bytes) const;

  std::filesystem::path directory_;
  ArchiveConfig config_;
  std::map<std::string, std::string> manifest_;  // file -> sha256
  std::shared_ptr<const SafetensorsFile> file_;
};

/// "model.layers.3.self_attn.q_proj.weight" -> "q_proj"; "norm" and "bias" for all of these.
std::string tensor_kind(const std::string& name);

/// True for files that belong to the tokenizer, which all-in bytes leave out.
bool is_tokenizer_file(const std::string& name);

/// A file beside the weights of a model: configuration, tokenizer, chat template.
struct CompanionFile {
  std::filesystem::path directory;
  std::string name;
};
/// Those of a model directory. With a `fallback`, configurations that the directory lacks are
/// there, and the tokenizer's files if it has no tokenizer.json.
std::vector<CompanionFile> companion_files(const std::filesystem::path& directory,
                                           const std::filesystem::path& fallback = {});

/// The text of such a file; config.json without its quantization_config, since what it goes with
/// holds values and no codes.
std::string read_companion(const CompanionFile& file);

/// Writes a whole archive atomically: coded tensors (each blob is asked for once, in order), the
/// companion_files(companions, fallback), configuration and manifest. config.tensors and
/// config.files are filled in here. Throws kIo, kInvalidArgument if `directory` exists and is not
/// empty.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(ArchiveConfig config) : config_(std::move(config)) {}
  /// A tensor whose bytes `load` returns when they are written.
  void add(const CodedTensor& tensor);
  void add(ArchiveTensor tensor, std::function<std::vector<std::byte>()> load);
  void write(const std::filesystem::path& directory, const std::filesystem::path& companions,
             const std::filesystem::path& fallback = {});

 private:
  ArchiveConfig config_;
  std::vector<std::function<std::vector<std::byte>()>> loaders_;
};

/// Coded tensors of one finished layer, kept beside an unfinished archive for --resume. The file
/// holds the blobs as U8 tensors and their descriptions in its metadata.
void write_shard(const std::filesystem::path& path, const std::vector<CodedTensor>& tensors);
std::vector<CodedTensor> read_shard(const std::filesystem::path& path);

}  // namespace deltacome
