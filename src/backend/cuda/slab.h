// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>

namespace deltacome::cuda {

/// Which places of one piece of device memory are free. The device hands out whole pages of 2 MiB,
/// of which a matrix of codes that is a little larger than one would waste half.
class Slab {
 public:
  Slab(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) { free_[0] = bytes; }

  std::byte* data() const noexcept { return data_; }
  int64_t bytes() const noexcept { return bytes_; }
  bool holds(const std::byte* at) const noexcept { return at >= data_ && at < data_ + bytes_; }
  bool unused() const noexcept { return !free_.empty() && free_.begin()->second == bytes_; }

  /// The first place of `bytes` > 0; null if there is none.
  std::byte* take(int64_t bytes) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
      const auto [offset, room] = *range;
      if (room < bytes) continue;
      free_.erase(range);
      if (room > bytes) free_[offset + bytes] = room - bytes;
      return data_ + offset;
    }
    return nullptr;
  }
  /// A place of take(), with the same size.
  void give_back(const std::byte* at, int64_t bytes) {
    auto range = free_.emplace(at - data_, bytes).first;
    const auto next = std::next(range);
    if (next != free_.end() && next->first == range->first + range->second) {
      range->second += next->second;
      free_.erase(next);
    }
    if (range == free_.begin()) return;
    const auto before = std::prev(range);
    if (before->first + before->second != range->first) return;
    before->second += range->second;
    free_.erase(range);
  }

 private:
  std::byte* data_;
  int64_t bytes_;
  std::map<int64_t, int64_t> free_;  // size by offset; no two touch
};

}  // namespace deltacome::cuda
