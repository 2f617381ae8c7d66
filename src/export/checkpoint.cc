// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "core/check.h"
#include "deltacome/export.h"
#include "export/merged_model.h"
#include "io/checkpoint_index.h"
#include "io/fused_projections.h"
#include "io/vision_config.h"

namespace deltacome {
namespace {

constexpr int64_t kMinShardBytes = 1 << 10;  // below, a shard a tensor: surely a mistake of units

std::optional<DType> parse_dtype(const std::string& name) {
  if (name.empty()) return std::nullopt;
  if (name == "bf16") return DType::kBf16;
  if (name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  fail(ErrorCode::kInvalidArgument, "dtype is \"{}\", expected bf16, f16 or f32", name);
}

/// Throws if values became infinite: fp16 ends at 65504.
void check_range(const HostTensor& tensor, const std::string& name) {
  if (tensor.dtype != DType::kF16) return;
  for (const float value : tensor.to_float()) {
    if (std::isfinite(value)) continue;
    fail(ErrorCode::kUnsupported,
         "tensor \"{}\" has values beyond 65504, the largest of F16; write bf16", name);
  }
}

int64_t bytes_of(const TensorSpec& spec) {
  return element_count(spec.shape) * dtype_bytes(spec.dtype);
}

/// Consecutive tensors, as many in a shard as fit; a larger one has a shard of its own.
std::vector<std::vector<size_t>> shards_of(const std::vector<TensorSpec>& specs,
                                           int64_t max_bytes) {
  std::vector<std::vector<size_t>> shards;
  int64_t filled = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t bytes = bytes_of(specs[i]);
    if (shards.empty() || filled + bytes > max_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(i);
    filled += bytes;
  }
  return shards;
}

}  // namespace

CheckpointReport write_checkpoint(const CheckpointOptions& options) {
  const std::optional<DType> dtype = parse_dtype(options.dtype);
  if (options.max_shard_bytes < kMinShardBytes) {
    fail(ErrorCode::kInvalidArgument, "the largest shard is {} bytes, expected at least {}",
         options.max_shard_bytes, kMinShardBytes);
  }
  StagedDirectory stage(options.out);  // before anything is read
  const MergedModel model(options.model);
  std::vector<TensorSpec> specs;
  CheckpointReport report;
  const std::vector<StoredTensor> stored = stored_tensors(model.config());
  for (const StoredTensor& tensor : stored) {
    const DType own = model.dtype(model.tensors()[tensor.parts.front()]);
    specs.push_back({tensor.name, dtype.value_or(own), tensor.shape});
  }
  const Checkpoint vision = model.vision();
  std::vector<const HostTensor*> of_vision;  // what the specs behind the language model's are of
  for (const auto& [name, tensor] : vision.tensors()) {
    specs.push_back({name, dtype.value_or(tensor.dtype), tensor.shape});
    of_vision.push_back(&tensor);
  }
  for (TensorSpec& spec : specs) {
    report.bytes += bytes_of(spec);
    if (model.config().vision) spec.name = stored_vision_model_name(spec.name);
  }
  const auto append = [&](SafetensorsWriter& writer, size_t i) {
    const auto write = [&](const HostTensor& tensor) {
      check_range(tensor, specs[i].name);
      writer.append(tensor.bytes);
      release_pages(tensor.bytes);
    };
    if (i >= stored.size()) return write(converted(*of_vision[i - stored.size()], specs[i].dtype));
    for (const size_t part : stored[i].parts)
      write(model.read(model.tensors()[part], specs[i].dtype));
  };
  report.tensors = static_cast<int64_t>(specs.size());
  const std::vector<std::vector<size_t>> shards = shards_of(specs, options.max_shard_bytes);
  report.shards = static_cast<int64_t>(shards.size());

  std::vector<std::pair<std::string, std::string>> places;  // tensor, file
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::vector<TensorSpec> of_shard;
    for (const size_t t : shards[i]) {
      of_shard.push_back(specs[t]);
      places.emplace_back(specs[t].name, file);
    }
    SafetensorsWriter writer(stage.staging() / file, of_shard, {{"format", "pt"}});
    for (const size_t t : shards[i]) append(writer, t);
    writer.finish();
  }
  if (shards.size() > 1) {
    write_file_atomically(stage.staging() / "model.safetensors.index.json",
                          checkpoint_index_json(places, report.bytes));
  }
  for (const CompanionFile& file : model.companions()) {
    std::string text = read_companion(file);
    if (dtype && file.name == "config.json")
      text = config_with_dtype(text, *dtype, (file.directory / file.name).string());
    write_file_atomically(stage.staging() / file.name, text);
  }
  stage.commit();
  return report;
}

}  // namespace deltacome
