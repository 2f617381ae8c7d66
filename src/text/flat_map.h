// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace deltacome {

/// Open-addressing map from 64-bit keys to small values, for tables that are built once and read
/// often. The key ~0 is not allowed. Concurrent reads are safe.
template <class Value>
class FlatMap {
 public:
  /// The value of `key`, inserted as `value` if absent; true if it was inserted.
  std::pair<Value&, bool> insert(uint64_t key, const Value& value) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[find_slot(key)];
    const bool is_new = slot.key != key;
    if (is_new) {
      slot = {key, value};
      ++size_;
    }
    return {slot.value, is_new};
  }

  /// nullptr if absent.
  const Value* find(uint64_t key) const noexcept {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[find_slot(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

  size_t size() const noexcept { return size_; }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  size_t find_slot(uint64_t key) const noexcept {
    uint64_t hash = (key ^ key >> 32) * 0x9E3779B97F4A7C15u;  // Fibonacci hashing
    hash ^= hash >> 29;
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<size_t>(hash) & mask;
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : 2 * slots_.size());
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.key != kEmpty) slots_[find_slot(slot.key)] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half full
  size_t size_ = 0;
};

}  // namespace deltacome
