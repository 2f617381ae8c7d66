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
      return;  // linear() takes them all
  }
}

/// Puts coded tensors into a new variant, each at its slot.
class VariantLoader {
 public:
  /// `where` begins the messages.
  VariantLoader(Backend& backend, Stream& stream, const ModelConfig& base, std::string where)
      : stream_(stream), where_(std::move(where)), expected_(expected_tensors(base)) {
    for (size_t i = 0; i < expected_.size(); ++i) slots_[expected_[i].name] = static_cast<int>(i);
    variant_ = backend.create_variant(static_cast<int>(expected_.size()));
  }

  const std::vector<ExpectedTensor>& expected() const noexcept { return expected_; }

  /// The slot of a tensor, if it fits the base there.
  int slot_of(const std::string& name, const MatrixFormat& format) const {
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

  void set(int slot, const MatrixFormat& format, const HostTensor& blob) {
    variant_->set(slot, format, blob, stream_);
  }

  std::shared_ptr<DeviceVariant> finish() {
    stream_.synchronize();
    return std::move(variant_);
  }

 private:
  Stream& stream_;
  std::string where_;
  std::vector<ExpectedTensor> expected_;
  std::map<std::string, int> slots_;
  std::shared_ptr<DeviceVariant> variant_;
};

OpenedVariant open_adapter(Backend& backend, Stream& stream, const std::filesystem::path& directory,
                           const Checkpoint& base, const ModelConfig& base_config) {
  const PeftAdapter adapter = PeftAdapter::open(directory);
  ModelConfig config = adapter.model_config(base.directory(), base_config);
  return {.device = load_variant(backend, stream, adapter, base_config),
          .config = std::move(config),
          .text_directory = adapter.has_tokenizer() ? directory : base.directory()};
}

}  // namespace

std::shared_ptr<DeviceVariant> load_variant(Backend& backend, Stream& stream,
                                            const Archive& archive, const ModelConfig& base) {
  VariantLoader loader(backend, stream, base,
                       fmt::format("archive {}", archive.directory().string()));
  for (const ArchiveTensor& tensor : archive.config().tensors) {
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
  const bool has_tokenizer = archive.file_bytes("tokenizer.json") > 0;
  return {.device = load_variant(backend, stream, archive, base_config),
          .config = read_model_config(directory),
          .text_directory = has_tokenizer ? directory : base.directory()};
}

}  // namespace deltacome
