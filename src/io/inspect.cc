// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/check.h"
#include "deltacome/archive.h"
#include "io/archive.h"
#include "io/peft_adapter.h"
#include "io/vision_config.h"

namespace deltacome {

std::string tensor_kind(const std::string& name) {
  if (is_vision_tensor(name)) return name.substr(0, name.find('.'));
  const std::string stem = name.substr(0, name.rfind('.'));
  std::string last = stem.substr(stem.rfind('.') + 1);
  if (name.ends_with(".bias")) return "bias";
  return last.find("norm") != std::string::npos ? "norm" : last;
}

namespace {

TensorInfo describe_tensor(const ArchiveTensor& tensor) {
  TensorInfo info;
  info.name = tensor.name;
  info.kind = tensor_kind(tensor.name);
  info.codec = codec_name(tensor.format.codec);
  info.shape = tensor.format.shape;
  info.bytes = layout_of(tensor.format).total_bytes;
  info.bits_per_weight =
      8.0 * static_cast<double>(info.bytes) / static_cast<double>(element_count(info.shape));
  info.rank = tensor.format.rank();
  for (const TierFormat& tier : tensor.format.tiers)
    info.tiers.push_back({tier.rank, tier.v.bits, tier.u.bits});
  if (tensor.format.codec == Codec::kVector) info.vector_dim = tensor.format.vector.dim;
  info.row_gain = tensor.format.row_gain;
  info.column_gain = tensor.format.col_gain;
  info.relative_error = tensor.stats.relative_error;
  info.energy = tensor.stats.energy;
  info.stable_rank = tensor.stats.stable_rank;
  return info;
}

/// The sum that a tensor's bytes count into.
int64_t& bytes_of_kind(ArchiveInfo& info, const TensorInfo& tensor) {
  if (tensor.kind.ends_with("_proj")) return info.projection_bytes;
  if (tensor.kind == "embed_tokens" || tensor.kind == "lm_head") return info.embedding_bytes;
  return is_vision_tensor(tensor.name) ? info.vision_bytes : info.other_bytes;
}

/// An adapter without its base: what depends on the base's other weights is not known.
ArchiveInfo describe_adapter(const PeftAdapter& adapter) {
  ArchiveInfo info;
  info.method = "lora";
  info.base_name = adapter.base_name();
  info.finetuned_name = directory_name(adapter.directory());
  info.finetuned_hash = adapter.content_hash();
  info.bits_per_weight = info.ratio = -1;
  info.finetuned_bytes = -1;
  for (const LoraModule& module : adapter.modules()) {
    TensorInfo& tensor = info.tensors.emplace_back();
    tensor.name = module.name;
    tensor.kind = tensor_kind(module.name);
    tensor.codec = codec_name(Codec::kLowRank);
    tensor.shape = module.shape();
    tensor.bytes = module.stored_bytes();
    tensor.bits_per_weight =
        8.0 * static_cast<double>(tensor.bytes) / static_cast<double>(element_count(tensor.shape));
    tensor.rank = module.rank();
    tensor.tiers = {{module.rank(), static_cast<int>(8 * dtype_bytes(module.a.dtype)),
                     static_cast<int>(8 * dtype_bytes(module.b.dtype))}};
    bytes_of_kind(info, tensor) += tensor.bytes;
  }
  for (const WholeTensor& whole : adapter.wholes()) {
    TensorInfo& tensor = info.tensors.emplace_back();
    tensor.name = whole.name;
    tensor.kind = tensor_kind(whole.name);
    tensor.codec = codec_name(Codec::kRaw);
    tensor.shape = whole.tensor.shape;
    tensor.bytes = static_cast<int64_t>(whole.tensor.bytes.size());
    tensor.bits_per_weight = static_cast<double>(8 * dtype_bytes(whole.tensor.dtype));
    bytes_of_kind(info, tensor) += tensor.bytes;
  }
  info.all_in_bytes = adapter.file_bytes();
  info.header_bytes =
      info.all_in_bytes - info.projection_bytes - info.embedding_bytes - info.other_bytes;
  info.tokenizer_bytes = adapter.tokenizer_bytes();
  return info;
}

}  // namespace

ArchiveInfo inspect_archive(const std::filesystem::path& directory) {
  if (is_peft_adapter(directory)) return describe_adapter(PeftAdapter::open(directory));
  const Archive archive = Archive::open(directory);
  const ArchiveConfig& config = archive.config();
  ArchiveInfo info;
  info.method = config.method;
  info.architecture = config.architecture;
  info.created_by = config.created_by;
  info.base_name = config.base_name;
  info.base_hash = config.base_hash;
  info.base_quantization = config.base_quantization;
  info.finetuned_name = config.finetuned_name;
  info.finetuned_hash = config.finetuned_hash;
  info.requested_bits = config.requested_bits;
  for (const ArchiveTensor& tensor : config.tensors) {
    const TensorInfo& described = info.tensors.emplace_back(describe_tensor(tensor));
    bytes_of_kind(info, described) += described.bytes;
  }
  info.all_in_bytes = archive.all_in_bytes();
  info.header_bytes = info.all_in_bytes - info.projection_bytes - info.embedding_bytes -
                      info.vision_bytes - info.other_bytes;
  for (const std::string& name : config.files) {
    if (is_tokenizer_file(name)) info.tokenizer_bytes += archive.file_bytes(name);
  }
  info.finetuned_bytes = 2 * config.finetuned_parameters;
  if (config.projection_weights > 0) {
    info.bits_per_weight = 8.0 * static_cast<double>(info.projection_bytes) /
                           static_cast<double>(config.projection_weights);
  }
  if (info.finetuned_bytes > 0) {
    info.ratio = static_cast<double>(info.all_in_bytes) / static_cast<double>(info.finetuned_bytes);
  }
  info.calibration_files = config.calibration.files;
  info.calibration_tokens = config.calibration.tokens;
  info.calibration_sequence_length = config.calibration.sequence_length;
  info.seed = config.calibration.seed;
  if (config.held_out) {
    info.held_out = {config.held_out->file, config.held_out->tokens, config.held_out->kl,
                     config.held_out->top1};
  }
  return info;
}

std::vector<std::string> verify_archive(const std::filesystem::path& directory,
                                        const std::optional<std::filesystem::path>& base) {
  const Archive archive = Archive::open(directory);
  std::vector<std::string> notes = archive.verify();
  if (base) archive.check_base(Checkpoint::open(*base));
  return notes;
}

}  // namespace deltacome
