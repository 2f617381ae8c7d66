// SPDX-License-Identifier: Apache-2.0
#include "io/torch_file.h"

#include <array>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "io/files.h"
#include "io/json.h"
#include "io/pickle.h"
#include "io/safetensors_layout.h"
#include "io/zip.h"

namespace deltacome {
namespace {

using Entries = std::map<std::string, std::span<const std::byte>>;

constexpr std::string_view kPickleName = "/data.pkl";

DType dtype_of(const PickledTensor& tensor, const std::string& where) {
  constexpr std::array<std::pair<std::string_view, DType>, 8> kTypes{
      {{"FloatStorage", DType::kF32},
       {"HalfStorage", DType::kF16},
       {"BFloat16Storage", DType::kBf16},
       {"DoubleStorage", DType::kF64},
       {"LongStorage", DType::kI64},
       {"IntStorage", DType::kI32},
       {"CharStorage", DType::kI8},
       {"ByteStorage", DType::kU8}}};
  for (const auto& [name, dtype] : kTypes) {
    if (name == tensor.type) return dtype;
  }
  fail(ErrorCode::kUnsupported, "{}: tensor {} is of a {}, which is not supported", where,
       quote(tensor.name), tensor.type);
}

/// The directory inside the file: "archive", as torch.save names it by default, or another.
std::string find_prefix(const Entries& entries, const std::string& where) {
  std::string prefix;
  for (const auto& [name, bytes] : entries) {
    if (!name.ends_with(kPickleName) || name.find('/') != name.size() - kPickleName.size())
      continue;
    if (!prefix.empty()) fail(ErrorCode::kCorrupt, "{}: has two data.pkl, expected one", where);
    prefix = name.substr(0, name.size() - kPickleName.size() + 1);
  }
  if (prefix.empty()) {
    fail(ErrorCode::kCorrupt, "{}: a ZIP file without NAME/data.pkl, so not one of torch.save",
         where);
  }
  const auto order = entries.find(prefix + "byteorder");
  if (order == entries.end()) return prefix;
  const std::string text(reinterpret_cast<const char*>(order->second.data()),
                         std::min<size_t>(order->second.size(), 16));
  if (text != "little") {
    fail(ErrorCode::kUnsupported, "{}: byte order {}, expected \"little\"", where, quote(text));
  }
  return prefix;
}

bool is_contiguous(const PickledTensor& tensor) {
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i > 0; --i) {
    if (tensor.shape[i - 1] != 1 && tensor.strides[i - 1] != stride) return false;
    stride *= tensor.shape[i - 1];
  }
  return true;
}

/// Whether every element of the view lies in the storage; no product overflows.
bool is_inside(const PickledTensor& tensor) {
  int64_t last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t reach = 0;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return false;
    }
  }
  return last < tensor.storage_size;
}

/// The elements of a view that is inside its storage, row-major.
std::vector<std::byte> gather(const PickledTensor& tensor, std::span<const std::byte> storage,
                              int64_t element_bytes) {
  const int64_t n = element_count(tensor.shape);
  std::vector<std::byte> out(static_cast<size_t>(n * element_bytes));
  std::vector<int64_t> index(tensor.shape.size(), 0);
  int64_t at = tensor.offset;
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(out.data() + i * element_bytes, storage.data() + at * element_bytes,
                static_cast<size_t>(element_bytes));
    for (size_t d = index.size(); d > 0; --d) {
      at += tensor.strides[d - 1];
      if (++index[d - 1] < tensor.shape[d - 1]) break;
      at -= tensor.shape[d - 1] * tensor.strides[d - 1];
      index[d - 1] = 0;
    }
  }
  return out;
}

/// Makes tensors of the views of one file.
class Views {
 public:
  Views(const Entries& entries, std::string prefix, std::shared_ptr<const void> owner,
        size_t file_bytes, const std::string& where)
      : entries_(entries),
        prefix_(std::move(prefix)),
        owner_(std::move(owner)),
        copies_left_(file_bytes),
        where_(where) {}

  HostTensor view(const PickledTensor& tensor) {
    const DType dtype = dtype_of(tensor, where_);
    const int64_t element = dtype_bytes(dtype);
    const std::string which = fmt::format("{}: tensor {}", where_, quote(tensor.name));
    const auto bytes = checked_bytes(tensor.shape, dtype);
    if (!bytes) fail(ErrorCode::kCorrupt, "{}: the size of its shape overflows", which);
    const auto storage = storage_of(tensor, element, which);
    if (*bytes == 0) return {dtype, tensor.shape, storage.first(0), owner_};
    if (!is_inside(tensor)) {
      fail(ErrorCode::kCorrupt, "{}: {} from element {} with strides {} leaves its storage of {}",
           which, to_string(tensor.shape), tensor.offset, to_string(tensor.strides),
           tensor.storage_size);
    }
    if (is_contiguous(tensor)) {
      return {dtype, tensor.shape,
              storage.subspan(static_cast<size_t>(tensor.offset * element),
                              static_cast<size_t>(*bytes)),
              owner_};
    }
    if (static_cast<uint64_t>(*bytes) > copies_left_) {
      fail(ErrorCode::kCorrupt, "{}: views that repeat elements of their storage, {} bytes", which,
           *bytes);
    }
    copies_left_ -= static_cast<size_t>(*bytes);
    return HostTensor::of(dtype, tensor.shape, gather(tensor, storage, element));
  }

 private:
  std::span<const std::byte> storage_of(const PickledTensor& tensor, int64_t element,
                                        const std::string& which) const {
    const auto found = entries_.find(fmt::format("{}data/{}", prefix_, tensor.storage));
    if (found == entries_.end()) {
      fail(ErrorCode::kCorrupt, "{}: its storage {} is not in the file", which,
           quote(tensor.storage));
    }
    const uint64_t bytes = found->second.size();
    if (bytes % static_cast<uint64_t>(element) != 0 ||
        bytes / static_cast<uint64_t>(element) != static_cast<uint64_t>(tensor.storage_size)) {
      fail(ErrorCode::kCorrupt, "{}: its storage {} has {} bytes, expected {} elements of {}",
           which, quote(tensor.storage), bytes, tensor.storage_size, element);
    }
    return found->second;
  }

  const Entries& entries_;
  std::string prefix_;
  std::shared_ptr<const void> owner_;
  size_t copies_left_;  // bytes
  const std::string& where_;
};

}  // namespace

std::map<std::string, HostTensor> parse_torch_file(std::span<const std::byte> bytes,
                                                   std::shared_ptr<const void> owner,
                                                   const std::string& name) {
  constexpr std::string_view kZip = "PK\x03\x04", kPickle = "\x80\x02\x8a";
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()),
                               std::min<size_t>(bytes.size(), 4));
  if (start.starts_with(kPickle)) {
    fail(ErrorCode::kUnsupported,
         "{}: the legacy format of torch.save (before PyTorch 1.6) is not supported; load it and "
         "save it again",
         name);
  }
  if (start != kZip) {
    fail(ErrorCode::kCorrupt, "{}: does not start as a ZIP file, so not one of torch.save", name);
  }
  const Entries entries = read_stored_zip(bytes, name);
  const std::string prefix = find_prefix(entries, name);
  const std::vector<PickledTensor> pickled =
      read_torch_pickle(entries.at(fmt::format("{}data.pkl", prefix)), name);
  Views views(entries, prefix, std::move(owner), bytes.size(), name);
  std::map<std::string, HostTensor> tensors;
  for (const PickledTensor& tensor : pickled) {
    if (!tensors.emplace(tensor.name, views.view(tensor)).second) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is there twice", name, quote(tensor.name));
    }
  }
  return tensors;
}

std::map<std::string, HostTensor> read_torch_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_torch_file(file->bytes(), file, path.string());
}

}  // namespace deltacome
