// SPDX-License-Identifier: Apache-2.0
#include "delta/load_variant.h"

#include "core/check.h"
#include "delta/variant_loader.h"
#include "delta/vision_tensors.h"

namespace deltacome {
namespace {

OpenedVariant open_adapter(Backend& backend, Stream& stream, const std::filesystem::path& directory,
                           const Checkpoint& base, const ModelConfig& base_config) {
  const PeftAdapter adapter = PeftAdapter::open(directory);
  ModelConfig config = adapter.model_config(base.directory(), base_config);
  return {.device = load_variant(backend, stream, adapter, base_config),
          .config = std::move(config),
          .text_directory = adapter.has_tokenizer() ? directory : base.directory(),
          .vision = base,
          .vision_directory = base.directory()};
}

}  // namespace

std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const Archive& archive, const ModelConfig& base) {
  VariantLoader loader(backend, stream, base,
                       fmt::format("archive {}", archive.directory().string()));
  for (const ArchiveTensor& tensor : archive.config().tensors) {
    if (is_vision_tensor(tensor.name)) continue;  // vision_tensors() has them
    const int slot = loader.slot_of(tensor.name, tensor.format);
    loader.set(slot, tensor.format, archive.blob(tensor));
  }
  return loader.finish();
}

std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const PeftAdapter& adapter, const ModelConfig& base) {
  VariantLoader loader(backend, stream, base,
                       fmt::format("adapter {}", adapter.directory().string()));
  for (CodedTensor& tensor : adapter.encode(loader.expected())) {
    const int slot = loader.slot_of(tensor.name, tensor.format);
    const Shape bytes{static_cast<int64_t>(tensor.blob.size())};
    loader.set(slot, tensor.format, HostTensor::of(DType::kU8, bytes, std::move(tensor.blob)));
  }
  return loader.finish();
}

OpenedVariant open_variant(Backend& backend, Stream& stream, const std::filesystem::path& directory,
                           const Checkpoint& base, const ModelConfig& base_config) {
  if (is_peft_adapter(directory))
    return open_adapter(backend, stream, directory, base, base_config);
  const Archive archive = Archive::open(directory);
  archive.check_base(base);
  archive.check_files();
  ModelConfig config = read_variant_config(archive, base_config);
  const bool has_tokenizer = archive.file_bytes("tokenizer.json") > 0;
  return {
      .device = load_variant(backend, stream, archive, base_config),
      .config = config,
      .text_directory = has_tokenizer ? directory : base.directory(),
      .vision = vision_tensors(backend, stream, archive, base, config,
                               [&](const ArchiveTensor& tensor) { return archive.blob(tensor); }),
      .vision_directory = directory};
}

}  // namespace deltacome
