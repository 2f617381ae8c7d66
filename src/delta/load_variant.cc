// SPDX-License-Identifier: Apache-2.0
#include "delta/load_variant.h"

#include <algorithm>
#include <map>

#include "core/check.h"

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
void check_codec(const ExpectedTensor& base, Codec codec, const std::string& archive) {
  const auto expect = [&](bool holds, const char* what, const char* known) {
    if (holds) return;
    fail(ErrorCode::kUnsupported,
         "archive {}: tensor \"{}\" is {} stored as codec {}, which cannot run; expected {}",
         archive, base.name, what, codec_name(codec), known);
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
      return;  // linear() takes them all
  }
}

}  // namespace

std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const Archive& archive, const ModelConfig& base) {
  const std::vector<ExpectedTensor> expected = expected_tensors(base);
  std::map<std::string, int> slots;
  for (size_t i = 0; i < expected.size(); ++i) slots[expected[i].name] = static_cast<int>(i);
  auto variant = backend.create_variant(static_cast<int>(expected.size()));
  for (const ArchiveTensor& tensor : archive.config().tensors) {
    const auto slot = slots.find(tensor.name);
    if (slot == slots.end()) {
      fail(ErrorCode::kMismatch, "archive {}: tensor \"{}\" is not part of the base",
           archive.directory().string(), tensor.name);
    }
    const ExpectedTensor& want = expected[static_cast<size_t>(slot->second)];
    check_codec(want, tensor.format.codec, archive.directory().string());
    if (!fits(want, tensor.format)) {
      fail(ErrorCode::kMismatch, "archive {}: tensor \"{}\" {} {} does not fit the base's {}",
           archive.directory().string(), tensor.name, codec_name(tensor.format.codec),
           to_string(tensor.format.shape), to_string(want.shape));
    }
    variant->set(slot->second, tensor.format, archive.blob(tensor), stream);
  }
  stream.synchronize();
  return variant;
}

OpenedVariant open_variant(Backend& backend, Stream& stream, const std::filesystem::path& directory,
                           const Checkpoint& base, const ModelConfig& base_config) {
  const Archive archive = Archive::open(directory);
  archive.check_base(base);
  archive.check_files();
  const bool has_tokenizer = archive.file_bytes("tokenizer.json") > 0;
  return {.device = load_variant(backend, stream, archive, base_config),
          .config = read_model_config(directory),
          .text_directory = has_tokenizer ? directory : base.directory()};
}

}  // namespace deltacome
