// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "core/check.h"
#include "core/thread_pool.h"
#include "io/fused_projections.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/torch_file.h"
#include "io/vision_config.h"

namespace deltacome {
namespace fs = std::filesystem;
namespace {

/// A form that checkpoints have, in the order of preference of transformers.
struct Form {
  const char* single;
  const char* index;
  std::map<std::string, HostTensor> (*read)(const fs::path&);
};
const std::array<Form, 2> kForms{
    {{"model.safetensors", "model.safetensors.index.json",
      [](const fs::path& path) { return SafetensorsFile::open(path).tensors(); }},
     {"pytorch_model.bin", "pytorch_model.bin.index.json", read_torch_file}}};

constexpr size_t kHashPieceBytes = 4u << 20;
constexpr int kHashThreads = 8;  // each keeps up with a disk

/// What a user may have taken for the checkpoint; for a message.
std::string weight_files(const fs::path& directory) {
  static constexpr std::array<const char*, 5> kExtensions{".safetensors", ".bin", ".gguf", ".pt",
                                                          ".pth"};
  std::set<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string extension = path.extension().string();
    if (std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end()) {
      names.insert(quote(path.filename().string()));
    }
  }
  if (names.empty()) return "no weights";
  constexpr size_t kShown = 6;
  const auto shown_end = std::next(names.begin(), std::min(names.size(), kShown));
  return fmt::format("{}{}", fmt::join(names.begin(), shown_end, ", "),
                     names.size() > kShown ? ", ..." : "");
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

/// The index: tensor -> shard file, shard names checked.
std::map<std::string, std::string> read_weight_map(const fs::path& path) {
  const std::string where = path.string();
  const nlohmann::json index = parse_json_object(read_text_file(path), where);
  const auto found = index.find("weight_map");
  if (found == index.end() || !found->is_object()) {
    fail(ErrorCode::kCorrupt, "{}: weight_map is {}, expected an object of file names", where,
         found == index.end() ? "missing" : describe(*found));
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : found->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      fail(ErrorCode::kCorrupt, "{}: the shard of tensor {} is {}, expected a plain file name",
           where, quote(tensor), describe(shard));
    }
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  return weight_map;
}

std::map<std::string, HostTensor> open_shards(const fs::path& directory, const Form& form) {
  const auto weight_map = read_weight_map(directory / form.index);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) shards.insert(shard);

  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> shard_of;
  for (const std::string& shard : shards) {
    for (const auto& [name, tensor] : form.read(directory / shard)) {
      const auto [first, inserted] = shard_of.emplace(name, shard);
      if (!inserted) {
        fail(ErrorCode::kCorrupt, "{}: tensor {} is in two shards, {} and {}", directory.string(),
             quote(name), quote(first->second), quote(shard));
      }
      tensors.emplace(name, tensor);
    }
  }
  for (const auto& [tensor, shard] : weight_map) {
    const auto found = shard_of.find(tensor);
    if (found == shard_of.end() || found->second != shard) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is not in shard {}, where {} lists it",
           directory.string(), quote(tensor), quote(shard), form.index);
    }
  }
  return tensors;
}

/// The names of vision-language layouts as expected_tensors() has them.
std::map<std::string, HostTensor> with_canonical_names(std::map<std::string, HostTensor> tensors,
                                                       const fs::path& directory) {
  std::map<std::string, HostTensor> out;
  for (auto& [name, tensor] : tensors) {
    std::string canonical = canonical_tensor_name(name);
    if (canonical == "vision_tower.embeddings.position_ids") continue;  // 0, 1, 2, ...
    if (!out.emplace(canonical, std::move(tensor)).second) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is there under two names", directory.string(),
           quote(canonical));
    }
  }
  return out;
}

std::string hash_tensor(std::span<const std::byte> bytes) {
  Sha256 hash;
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kHashPieceBytes));
    hash.update(piece);
    release_pages(piece);
    bytes = bytes.subspan(piece.size());
  }
  return hash.hex();
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) {
    fail(ErrorCode::kNotFound, "{}: no such model directory", directory.string());
  }
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const auto form = std::ranges::find_if(kForms, [&](const Form& each) {
    return fs::exists(directory / each.single, error) || fs::exists(directory / each.index, error);
  });
  if (form == kForms.end()) {
    fail(ErrorCode::kNotFound, "{}: neither {} nor {} nor the same of {}; the directory has {}",
         directory.string(), kForms[0].single, kForms[0].index, kForms[1].single,
         weight_files(directory));
  }
  checkpoint.tensors_ = fs::exists(directory / form->single, error)
                            ? form->read(directory / form->single)
                            : open_shards(directory, *form);
  checkpoint.tensors_ = with_canonical_names(std::move(checkpoint.tensors_), directory);
  split_fused_projections(checkpoint.tensors_, directory);
  std::map<std::string, HostTensor> stored = checkpoint.tensors_;
  checkpoint.quantized_ = take_quantized_weights(directory, checkpoint.tensors_);
  if (!checkpoint.quantized_.empty()) checkpoint.stored_ = std::move(stored);
  checkpoint.expand_quantized_vision();
  return checkpoint;
}

void Checkpoint::expand_quantized_vision() {
  for (const auto& [name, weight] : quantized_) {
    if (is_vision_tensor(name)) tensors_.insert_or_assign(name, weight.read().dequantize());
  }
  std::erase_if(quantized_, [](const auto& entry) { return is_vision_tensor(entry.first); });
}

Checkpoint Checkpoint::dequantized() const {
  Checkpoint out = *this;
  out.quantized_.clear();
  for (const auto& [name, weight] : quantized_)
    out.tensors_.insert_or_assign(name, weight.read().dequantize());
  return out;
}

const HostTensor* Checkpoint::find(const std::string& name) const noexcept {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const QuantizedWeight* Checkpoint::find_quantized(const std::string& name) const noexcept {
  const auto found = quantized_.find(name);
  return found == quantized_.end() ? nullptr : &found->second;
}

const HostTensor& Checkpoint::at(const std::string& name) const {
  const HostTensor* tensor = find(name);
  if (tensor == nullptr) {
    fail(ErrorCode::kNotFound, "{}: there is no tensor {}", directory_.string(), quote(name));
  }
  return *tensor;
}

int64_t Checkpoint::total_bytes() const noexcept {
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors_) total += static_cast<int64_t>(tensor.bytes.size());
  return total;
}

std::string content_hash(const std::map<std::string, HostTensor>& tensors) {
  std::vector<std::string> hashes(tensors.size());
  std::vector<std::span<const std::byte>> bytes;
  for (const auto& [_, tensor] : tensors) bytes.push_back(tensor.bytes);
  ThreadPool threads(
      std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kHashThreads));
  threads.parallel_for(static_cast<int64_t>(bytes.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      hashes[i] = hash_tensor(bytes[i]);
  });
  Sha256 hash;
  auto hash_of_tensor = hashes.begin();
  for (const auto& [name, tensor] : tensors) {
    hash.update(fmt::format("{}\t{}\t{}\t{}\n", name, dtype_name(tensor.dtype),
                            to_string(tensor.shape), *hash_of_tensor++));
  }
  return hash.hex();
}

}  // namespace deltacome
