// SPDX-License-Identifier: Apache-2.0
#include "delta/variant_loader.h"

#include <algorithm>

#include "core/check.h"
#include "io/same_architecture.h"

namespace deltacome {
namespace {

using Kind = ExpectedTensor::Kind;

/// A stored shape fits the base's if it is equal, or differs in vocabulary rows only.
bool fits(const ExpectedTensor& base, const MatrixFormat& format) {
  if (format.shape.size() != base.shape.size()) return false;
  const bool vocabulary = base.kind == Kind::kEmbedding || base.kind == Kind::kHead;
  if (!vocabulary)
    return format.shape == base.shape && (format.codec == Codec::kRaw || format.added_rows() == 0);
  if (format.n_in() != base.shape[1]) return false;
  return format.codec == Codec::kRaw || format.base_rows == std::min(format.n_out(), base.shape[0]);
}

/// Throws kUnsupported for a codec that no op of this kind of tensor decodes.
void check_codec(const ExpectedTensor& base, Codec codec, const std::string& where) {
  const auto expect = [&](bool holds, const char* what, const char* known) {
    if (holds) return;
    fail(ErrorCode::kUnsupported,
         "{}: tensor \"{}\" is {} stored as codec {}, which cannot run; expected {}", where,
         base.name, what, codec_name(codec), known);
  };
  switch (base.kind) {
    case Kind::kNorm:
      return expect(codec == Codec::kRaw, "a norm", "raw");
    case Kind::kBias:
      return expect(codec == Codec::kRaw, "a bias", "raw");
    case Kind::kEmbedding:
      return expect(codec == Codec::kRaw || codec == Codec::kDense, "an embedding", "raw or dense");
    case Kind::kHead:
    case Kind::kProjection:
    case Kind::kVision:  // decoded, and no part of the variant
      return;            // linear() takes them all
  }
}

}  // namespace

ModelConfig read_variant_config(const Archive& archive, const ModelConfig& base) {
  ModelConfig config = read_model_config(archive.directory());
  const std::string where = (archive.directory() / "config.json").string();
  try {
    check_same_architecture(base, config);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", where, error.what()));
  }
  for (const ExpectedTensor& tensor : expected_tensors(base)) {
    if (tensor.kind != Kind::kEmbedding && tensor.kind != Kind::kHead) continue;
    const ArchiveTensor* own = archive.find(tensor.name);
    const Shape& shape = own != nullptr ? own->format.shape : tensor.shape;
    const int64_t rows = shape.empty() ? 0 : shape.front();
    if (config.vocab_size == rows) continue;
    fail(ErrorCode::kMismatch, "{}: vocab_size is {}, expected {}, the rows of {} tensor \"{}\"",
         where, config.vocab_size, rows, own != nullptr ? "the archive's" : "the base's",
         tensor.name);
  }
  return config;
}

VariantLoader::VariantLoader(Backend& backend, Stream& stream, const ModelConfig& base,
                             std::string where)
    : stream_(stream), where_(std::move(where)), expected_(expected_tensors(base)) {
  for (size_t i = 0; i < expected_.size(); ++i) slots_[expected_[i].name] = static_cast<int>(i);
  variant_ = backend.create_variant(static_cast<int>(expected_.size()));
}

int VariantLoader::slot_of(const std::string& name, const MatrixFormat& format) const {
  const auto slot = slots_.find(name);
  if (slot == slots_.end()) {
    fail(ErrorCode::kMismatch, "{}: tensor \"{}\" is not part of the base", where_, name);
  }
  const ExpectedTensor& want = expected_[static_cast<size_t>(slot->second)];
  check_codec(want, format.codec, where_);
  if (!fits(want, format)) {
    fail(ErrorCode::kMismatch, "{}: tensor \"{}\" {} {} does not fit the base's {}", where_, name,
         codec_name(format.codec), to_string(format.shape), to_string(want.shape));
  }
  return slot->second;
}

void VariantLoader::set(int slot, const MatrixFormat& format, const HostTensor& blob) {
  variant_->set(slot, format, blob, stream_);
}

std::shared_ptr<DeviceVariant> VariantLoader::finish() {
  stream_.synchronize();
  return std::move(variant_);
}

}  // namespace deltacome
