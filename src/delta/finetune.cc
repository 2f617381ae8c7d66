// SPDX-License-Identifier: Apache-2.0
#include "delta/finetune.h"

#include <algorithm>

#include "core/check.h"
#include "delta/reconstruct.h"
#include "delta/variant_loader.h"
#include "delta/vision_tensors.h"
#include "io/peft_adapter.h"
#include "io/same_architecture.h"
#include "io/vision_config.h"

namespace deltacome {
namespace {

using Coded = std::map<std::string, CodedTensor>;

bool is_archive(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / "delta_config.json", ignored);
}

void check_checkpoint(const Checkpoint& checkpoint, const std::vector<ExpectedTensor>& expected) {
  for (const ExpectedTensor& tensor : expected) {
    const HostTensor& got = checkpoint.at(tensor.name);
    if (got.shape == tensor.shape && is_floating(got.dtype)) continue;
    fail(ErrorCode::kMismatch, "{}: tensor \"{}\" is {} {}, expected BF16, F16 or F32 {}",
         checkpoint.directory().string(), tensor.name, dtype_name(got.dtype), to_string(got.shape),
         to_string(tensor.shape));
  }
}

}  // namespace

HostTensor converted(const HostTensor& tensor, DType dtype) {
  if (tensor.dtype == dtype) return tensor;
  const std::vector<float> values = tensor.to_float();
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  convert_from_float(values, dtype, bytes.data());
  return HostTensor::of(dtype, tensor.shape, std::move(bytes));
}

Finetune Finetune::open(const std::filesystem::path& directory, const Checkpoint& base,
                        const ModelConfig& base_config) {
  Finetune out;
  out.directory_ = directory;
  if (is_archive(directory)) {
    Archive archive = Archive::open(directory);
    archive.check_base(base);
    archive.check_files();
    out.config_ = read_variant_config(archive, base_config);
    out.tensors_ = expected_tensors(out.config_);
    out.check_archive(archive, base);
    out.source_ = std::move(archive);
  } else if (is_peft_adapter(directory)) {
    const PeftAdapter adapter = PeftAdapter::open(directory);
    out.config_ = adapter.model_config(base.directory(), base_config);
    out.tensors_ = expected_tensors(out.config_);
    Coded coded;
    for (CodedTensor& tensor : adapter.encode(out.tensors_)) {
      const std::string name = tensor.name;
      coded[name] = std::move(tensor);
    }
    out.source_ = std::move(coded);
    out.adapter_hash_ = adapter.content_hash();
  } else {
    Checkpoint checkpoint = Checkpoint::open(directory).dequantized();
    out.config_ = read_model_config(directory);
    check_same_architecture(base_config, out.config_);
    out.tensors_ = expected_tensors(out.config_);
    check_checkpoint(checkpoint, out.tensors_);
    check_checkpoint(checkpoint, expected_vision_tensors(out.config_));
    out.source_ = std::move(checkpoint);
  }
  return out;
}

void Finetune::check_archive(const Archive& archive, const Checkpoint& base) const {
  std::map<std::string, Shape> expected;
  for (const ExpectedTensor& tensor : tensors_) {
    expected[tensor.name] = tensor.shape;
    const ArchiveTensor* coded = archive.find(tensor.name);
    const Shape& got = coded != nullptr ? coded->format.shape : base.at(tensor.name).shape;
    if (got == tensor.shape) continue;
    fail(ErrorCode::kMismatch,
         "archive {}: tensor \"{}\" has shape {}{}, its config.json asks for {}",
         directory_.string(), tensor.name, to_string(got),
         coded != nullptr ? "" : " in the base, from which it is taken", to_string(tensor.shape));
  }
  for (const ArchiveTensor& coded : archive.config().tensors) {
    if (is_vision_tensor(coded.name)) continue;  // vision_tensors() checks them
    const HostTensor* of_base = base.find(coded.name);
    const MatrixFormat& format = coded.format;
    if (!expected.contains(coded.name) || of_base == nullptr ||
        (format.codec != Codec::kRaw &&
         (format.base_rows > of_base->rows() || format.n_in() != of_base->cols()))) {
      fail(ErrorCode::kMismatch, "archive {}: tensor \"{}\" {} does not fit the base",
           directory_.string(), coded.name, to_string(format.shape));
    }
  }
}

std::string Finetune::content_hash() const {
  if (const auto* archive = std::get_if<Archive>(&source_)) return archive->content_hash();
  if (const auto* checkpoint = std::get_if<Checkpoint>(&source_)) return checkpoint->content_hash();
  return adapter_hash_;
}

const char* Finetune::form() const noexcept {
  return source_.index() == 0 ? "archive" : source_.index() == 1 ? "adapter" : "checkpoint";
}

std::vector<CompanionFile> Finetune::companions(const std::filesystem::path& base) const {
  return companion_files(directory_,
                         std::holds_alternative<Coded>(source_) ? base : std::filesystem::path());
}

bool Finetune::changes(const std::string& name) const {
  if (const auto* archive = std::get_if<Archive>(&source_)) return archive->find(name) != nullptr;
  if (const auto* coded = std::get_if<Coded>(&source_)) return coded->contains(name);
  return true;
}

DType Finetune::dtype(const HostTensor& base, const std::string& name) const {
  if (const auto* checkpoint = std::get_if<Checkpoint>(&source_)) return checkpoint->at(name).dtype;
  const auto* archive = std::get_if<Archive>(&source_);
  const ArchiveTensor* coded = archive != nullptr ? archive->find(name) : nullptr;
  if (coded == nullptr) return base.dtype;
  if (coded->format.codec == Codec::kRaw) return coded->format.raw_dtype;
  return archive->config().finetuned_dtype.value_or(base.dtype);
}

HostTensor Finetune::read(Backend& backend, Stream& stream, const HostTensor& base,
                          const ExpectedTensor& tensor, DType dtype) const {
  const auto expand = [&](const MatrixFormat& format, const HostTensor& blob) {
    return HostTensor::of(dtype, tensor.shape,
                          reconstruct(backend, stream, base, format, blob, dtype));
  };
  if (const auto* checkpoint = std::get_if<Checkpoint>(&source_))
    return converted(checkpoint->at(tensor.name), dtype);
  if (!changes(tensor.name)) return converted(base, dtype);
  if (const auto* archive = std::get_if<Archive>(&source_)) {
    const ArchiveTensor& coded = *archive->find(tensor.name);
    return expand(coded.format, archive->blob(coded));
  }
  const CodedTensor& coded = std::get<Coded>(source_).at(tensor.name);
  return expand(coded.format,
                HostTensor::of(DType::kU8, {static_cast<int64_t>(coded.blob.size())}, coded.blob));
}

Checkpoint Finetune::vision(Backend& backend, Stream& stream, const Checkpoint& base) const {
  if (const auto* archive = std::get_if<Archive>(&source_)) {
    return vision_tensors(backend, stream, *archive, base, config_,
                          [&](const ArchiveTensor& tensor) { return archive->blob(tensor); });
  }
  const auto* own = std::get_if<Checkpoint>(&source_);
  std::map<std::string, HostTensor> tensors;
  for (const ExpectedTensor& want : expected_vision_tensors(config_))
    tensors[want.name] = (own != nullptr ? *own : base).at(want.name);
  return Checkpoint::of(std::move(tensors), directory_);
}

Checkpoint Finetune::materialize(Backend& backend, Stream& stream, const Checkpoint& base,
                                 const std::string& identity) const {
  std::map<std::string, HostTensor> tensors = vision(backend, stream, base).tensors();
  for (const ExpectedTensor& tensor : tensors_) {
    const HostTensor& before = base.at(tensor.name);
    tensors[tensor.name] = read(backend, stream, before, tensor, dtype(before, tensor.name));
  }
  std::error_code ignored;
  const bool has_tokenizer = std::filesystem::exists(directory_ / "tokenizer.json", ignored);
  return Checkpoint::of(std::move(tensors), has_tokenizer ? directory_ : base.directory(),
                        identity);
}

}  // namespace deltacome
