// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "core/check.h"
#include "delta/reconstruct.h"
#include "delta/vision_tensors.h"
#include "deltacome/archive.h"
#include "io/archive.h"
#include "io/model_config.h"

namespace deltacome {

void merge_archive(const std::filesystem::path& base_directory,
                   const std::filesystem::path& archive_directory, const std::filesystem::path& out,
                   int n_threads) {
  const Archive archive = Archive::open(archive_directory);
  const Checkpoint base = Checkpoint::open(base_directory);
  archive.check_base(base);
  archive.check_files();
  const ModelConfig config = read_model_config(archive_directory);
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  const auto backend = create_cpu_backend(n_threads);
  const auto stream = backend->create_stream();
  const Checkpoint vision =
      vision_tensors(*backend, *stream, archive, base, config,
                     [&](const ArchiveTensor& tensor) { return archive.blob(tensor); });

  StagedDirectory stage(out);
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : expected) {
    const ArchiveTensor* coded = archive.find(tensor.name);
    DType dtype = base.at(tensor.name).dtype;
    if (coded) dtype = archive.config().finetuned_dtype.value_or(dtype);
    if (coded && coded->format.codec == Codec::kRaw) dtype = coded->format.raw_dtype;
    specs.push_back({tensor.name, dtype, tensor.shape});
  }
  std::vector<TensorSpec> stored = specs;
  for (const auto& [name, tensor] : vision.tensors())
    stored.push_back({name, tensor.dtype, tensor.shape});
  if (config.vision) {
    for (TensorSpec& spec : stored) spec.name = stored_vision_model_name(spec.name);
  }
  SafetensorsWriter writer(stage.staging() / "model.safetensors", stored, {{"format", "pt"}});
  for (const TensorSpec& spec : specs) {
    const HostTensor& of_base = base.at(spec.name);
    const ArchiveTensor* coded = archive.find(spec.name);
    if (coded && coded->format.shape != spec.shape) {
      fail(ErrorCode::kMismatch,
           "archive {}: tensor \"{}\" has shape {}, its config.json asks for {}",
           archive_directory.string(), spec.name, to_string(coded->format.shape),
           to_string(spec.shape));
    }
    if (coded) {
      writer.append(
          reconstruct(*backend, *stream, of_base, coded->format, archive.blob(*coded), spec.dtype));
    } else if (of_base.shape == spec.shape) {
      writer.append(of_base.bytes);
    } else {
      fail(ErrorCode::kMismatch,
           "archive {}: tensor \"{}\" is missing, and the base's {} is not the {} that config.json "
           "asks for",
           archive_directory.string(), spec.name, to_string(of_base.shape), to_string(spec.shape));
    }
    release_pages(of_base.bytes);
  }
  for (const auto& [name, tensor] : vision.tensors()) writer.append(tensor.bytes);
  writer.finish();
  for (const std::string& name : archive.config().files) {
    write_file_atomically(stage.staging() / name, read_text_file(archive_directory / name));
  }
  stage.commit();
}

}  // namespace deltacome
