// SPDX-License-Identifier: Apache-2.0
#include "delta/vision_tensors.h"

#include "core/check.h"
#include "delta/reconstruct.h"

namespace deltacome {
namespace {

/// What a coded tensor that the base lacks is a delta of.
HostTensor zeros(const Shape& shape) {
  return HostTensor::of(DType::kF32, shape,
                        std::vector<float>(static_cast<size_t>(element_count(shape)), 0.0F));
}

}  // namespace

Checkpoint vision_tensors(Backend& backend, Stream& stream, const Archive& archive,
                          const Checkpoint& base, const ModelConfig& config,
                          const std::function<HostTensor(const ArchiveTensor&)>& read) {
  std::map<std::string, HostTensor> out;
  const std::string where = archive.directory().string();
  for (const ExpectedTensor& want : expected_vision_tensors(config)) {
    const HostTensor* of_base = base.find(want.name);
    const ArchiveTensor* coded = archive.find(want.name);
    if (coded == nullptr) {
      if (of_base == nullptr || of_base->shape != want.shape) {
        fail(ErrorCode::kMismatch, "archive {}: tensor \"{}\" {} is neither there nor in the base",
             where, want.name, to_string(want.shape));
      }
      out[want.name] = *of_base;
      continue;
    }
    const MatrixFormat& format = coded->format;
    if (element_count(format.shape) != element_count(want.shape) ||
        format.n_out() != want.shape.front()) {
      fail(ErrorCode::kMismatch,
           "archive {}: tensor \"{}\" has shape {}, its config.json asks for {}", where, want.name,
           to_string(format.shape), to_string(want.shape));
    }
    const DType dtype = format.codec == Codec::kRaw
                            ? format.raw_dtype
                            : archive.config().finetuned_dtype.value_or(DType::kBf16);
    HostTensor from = of_base != nullptr ? *of_base : zeros(want.shape);
    if (from.shape != want.shape) {
      fail(ErrorCode::kMismatch, "archive {}: tensor \"{}\" {} does not fit the base's {}", where,
           want.name, to_string(want.shape), to_string(from.shape));
    }
    out[want.name] = HostTensor::of(
        dtype, want.shape, reconstruct(backend, stream, from, format, read(*coded), dtype));
  }
  return Checkpoint::of(std::move(out), archive.directory());
}

}  // namespace deltacome
