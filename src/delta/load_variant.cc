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

bool codec_suits(const ExpectedTensor& base, Codec codec) {
  const bool vector = base.kind == Kind::kNorm || base.kind == Kind::kBias;
  return vector ? codec == Codec::kRaw : true;
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
    if (!fits(want, tensor.format) || !codec_suits(want, tensor.format.codec)) {
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
