// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"
#include "io/archive.h"
#include "io/archive_json.h"
#include "io/json.h"

namespace deltacome {

void write_shard(const std::filesystem::path& path, const std::vector<CodedTensor>& tensors) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> metadata;
  for (const CodedTensor& tensor : tensors) {
    specs.push_back({tensor.name, DType::kU8, {static_cast<int64_t>(tensor.blob.size())}});
    metadata[tensor.name] =
        to_json(ArchiveTensor{tensor.name, tensor.format, sha256_hex(tensor.blob), tensor.stats})
            .dump();
  }
  SafetensorsWriter writer(path, specs, metadata);
  for (const CodedTensor& tensor : tensors) writer.append(tensor.blob);
  writer.finish();
}

std::vector<CodedTensor> read_shard(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<CodedTensor> tensors;
  for (const auto& [name, stored] : file.tensors()) {
    const auto described = file.metadata().find(name);
    if (described == file.metadata().end()) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is not described", path.string(), quote(name));
    }
    const ArchiveTensor tensor =
        tensor_from_json(parse_json_object(described->second, path.string()), path.string());
    if (sha256_hex(stored.bytes) != tensor.sha256 ||
        static_cast<int64_t>(stored.bytes.size()) != layout_of(tensor.format).total_bytes) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} does not have the bytes that were written",
           path.string(), quote(name));
    }
    tensors.push_back(
        {name, tensor.format, {stored.bytes.begin(), stored.bytes.end()}, tensor.stats});
  }
  return tensors;
}

}  // namespace deltacome
