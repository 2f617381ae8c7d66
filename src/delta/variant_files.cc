// SPDX-License-Identifier: Apache-2.0
#include "delta/variant_files.h"

#include <algorithm>
#include <deque>
#include <future>
#include <thread>

#include "core/check.h"
#include "delta/variant_loader.h"
#include "delta/vision_tensors.h"
#include "io/peft_adapter.h"

namespace deltacome {
namespace {

/// An adapter's scale is folded into its codes, so they, not its files, are what it computes.
std::string content_hash_of(const std::vector<CodedTensor>& tensors) {
  Sha256 hash;
  for (const CodedTensor& tensor : tensors) {
    hash.update(fmt::format("{}\t{}\t{}\t{}\n", tensor.name, codec_name(tensor.format.codec),
                            to_string(tensor.format.shape), tensor.format.rank()));
    hash.update(tensor.blob);
  }
  return hash.hex();
}

/// Blobs that are read and hashed on threads of their own, a few ahead of the one at hand: on one
/// thread hashing takes longer than all else of a load. Machines of few cores have none to spare.
class BlobsAhead {
 public:
  explicit BlobsAhead(const Archive& archive)
      : archive_(archive),
        n_ahead_(std::min<size_t>(kMostAhead, std::thread::hardware_concurrency() / 4)) {
    for (const ArchiveTensor& tensor : archive.config().tensors) {
      if (!is_vision_tensor(tensor.name)) tensors_.push_back(&tensor);  // load_vision() has those
    }
    if (n_ahead_ > 0)
      fetching_ = std::async(std::launch::async, [this] { archive_.will_read_all(); });
  }
  const std::vector<const ArchiveTensor*>& tensors() const noexcept { return tensors_; }
  /// Of the next of tensors(). Throws as Archive::read_blob().
  std::vector<std::byte> next() {
    if (n_ahead_ == 0) return archive_.read_blob(*tensors_[n_started_++]);
    for (; n_started_ < tensors_.size() && reading_.size() < n_ahead_; ++n_started_) {
      reading_.push_back(std::async(std::launch::async, [this, tensor = tensors_[n_started_]] {
        return archive_.read_blob(*tensor);
      }));
    }
    std::vector<std::byte> blob = reading_.front().get();
    reading_.pop_front();
    return blob;
  }

 private:
  static constexpr size_t kMostAhead = 6;
  const Archive& archive_;
  const size_t n_ahead_;
  std::vector<const ArchiveTensor*> tensors_;
  size_t n_started_ = 0;
  std::future<void> fetching_;
  std::deque<std::future<std::vector<std::byte>>> reading_;
};

}  // namespace

VariantFiles VariantFiles::open(const std::filesystem::path& directory, const BaseIdentity& base) {
  VariantFiles out;
  if (is_peft_adapter(directory)) {
    out.where_ = fmt::format("adapter {}", directory.string());
    const PeftAdapter adapter = PeftAdapter::open(directory);
    out.config_ = adapter.model_config(base.directory, base.config);
    out.text_directory_ = adapter.has_tokenizer() ? directory : base.directory;
    std::vector<CodedTensor> coded = adapter.encode(expected_tensors(base.config));
    for (const CodedTensor& tensor : coded)
      out.tensor_bytes_ += static_cast<int64_t>(tensor.blob.size());
    out.content_hash_ = content_hash_of(coded);
    out.tensors_ = std::move(coded);
    out.vision_directory_ = base.directory;
    return out;
  }
  Archive archive = Archive::open(directory);
  archive.check_base(base.directory, base.content_hash);
  archive.check_companions();
  out.where_ = fmt::format("archive {}", directory.string());
  out.config_ = read_variant_config(archive, base.config);
  out.text_directory_ = archive.file_bytes("tokenizer.json") > 0 ? directory : base.directory;
  out.tensor_bytes_ = archive.tensor_bytes();
  out.content_hash_ = archive.content_hash();
  out.vision_directory_ = directory;
  out.tensors_ = std::move(archive);
  return out;
}

Checkpoint VariantFiles::load_vision(Backend& backend, Stream& stream,
                                     const BaseIdentity& base) const {
  Checkpoint of_base = base.config.vision ? Checkpoint::open(base.directory) : Checkpoint();
  const auto* archive = std::get_if<Archive>(&tensors_);
  if (archive == nullptr) return of_base;
  return vision_tensors(backend, stream, *archive, of_base, config_,
                        [&](const ArchiveTensor& tensor) {
                          std::vector<std::byte> blob = archive->read_blob(tensor);
                          const auto n_bytes = static_cast<int64_t>(blob.size());
                          return HostTensor::of(DType::kU8, {n_bytes}, std::move(blob));
                        });
}

std::shared_ptr<DeviceVariant> VariantFiles::load(
    Backend& backend, Stream& stream, const BaseIdentity& base,
    const std::function<void(int64_t)>& before_tensor) {
  VariantLoader loader(backend, stream, base.config, where_);
  int64_t loaded = 0;
  const auto set = [&](const std::string& name, const MatrixFormat& format, auto&& read) {
    before_tensor(loaded);
    const int slot = loader.slot_of(name, format);
    std::vector<std::byte> blob = read();
    const auto n_bytes = static_cast<int64_t>(blob.size());
    loader.set(slot, format, HostTensor::of(DType::kU8, {n_bytes}, std::move(blob)));
    loaded += n_bytes;
  };
  if (const auto* archive = std::get_if<Archive>(&tensors_)) {
    BlobsAhead blobs(*archive);
    for (const ArchiveTensor* tensor : blobs.tensors())
      set(tensor->name, tensor->format, [&] { return blobs.next(); });
  } else if (auto* coded = std::get_if<std::vector<CodedTensor>>(&tensors_)) {
    for (CodedTensor& tensor : *coded)
      set(tensor.name, tensor.format, [&] { return std::move(tensor.blob); });
  }
  before_tensor(loaded);
  return loader.finish();
}

}  // namespace deltacome
