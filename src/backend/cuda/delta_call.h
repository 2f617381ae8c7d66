// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "backend/cuda/delta_prompt.h"
#include "backend/cuda/variant_plan.h"

namespace deltacome::cuda {

/// Items of a WorkList on the host.
template <class Item>
struct HostList {
  std::vector<Item> items;
  std::vector<int32_t> starts = {0};
  void add(const Item& item, int64_t units) {
    if (units == 0) return;
    items.push_back(item);
    starts.push_back(starts.back() + static_cast<int32_t>(units));
  }
};

/// A table's bytes on the host; lists in them have offsets for pointers until they are moved to
/// where the bytes will be.
class TableBytes {
 public:
  /// With room for `capacity` items.
  template <class Item>
  void append(const HostList<Item>& from, int32_t capacity, WorkList<Item>& list) {
    const auto n = static_cast<int32_t>(from.items.size());
    const WorkHead head{n, from.starts.back()};
    list.capacity = capacity;
    list.head = offset<WorkHead>(append(&head, sizeof head));
    append_behind(from.starts.data(), from.starts.size(), static_cast<size_t>(capacity) + 1);
    list.items = offset<Item>(append(nullptr, 0));
    append_behind(from.items.data(), from.items.size(), static_cast<size_t>(capacity));
  }
  template <class T>
  const T* append(std::span<const T> values) {
    return offset<T>(append(values.data(), values.size_bytes()));
  }
  template <class T>
  static void move_to(std::byte* base, const T*& p) {
    p = reinterpret_cast<const T*>(base + reinterpret_cast<intptr_t>(p));
  }
  template <class Item>
  static void move_to(std::byte* base, WorkList<Item>& list) {
    move_to(base, list.items);
    move_to(base, list.head);
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  template <class T>
  static const T* offset(int64_t at) {
    return reinterpret_cast<const T*>(static_cast<intptr_t>(at));
  }
  int64_t append(const void* data, size_t n) {
    const size_t at = (bytes_.size() + kAlign - 1) / kAlign * kAlign;
    bytes_.resize(at + n);
    if (n > 0) std::memcpy(bytes_.data() + at, data, n);
    return static_cast<int64_t>(at);
  }
  template <class T>
  void append_behind(const T* data, size_t n, size_t room) {
    const size_t at = bytes_.size();
    bytes_.resize(at + room * sizeof(T));
    std::memcpy(bytes_.data() + at, data, n * sizeof(T));
  }
  static constexpr size_t kAlign = 128;  // lines of the cache
  std::vector<std::byte> bytes_;
};

/// What `m` is of a segment: its row blocks, its results (target -1: z), and one part.
void start_segment(const PackedMatrix& m, int target, DeltaSegment& s);
SegmentPart part_of(const PackedMatrix& m);

/// What the tensors of some slots need, for all variants of a plan.
struct CallContents {
  HostList<InputJob> inputs, vector_inputs;
  HostList<ComponentJob> components;
  HostList<InputSegment> shrink, vectors;
  HostList<ComponentSegment> expand;
  HostList<PlainSegment> plain, plain_expand;
  int64_t n_inputs = 0, n_scales = 0, n_z = 0;
  int32_t tier_items[kTierLaunches + 1] = {};
  std::vector<PromptGroup> prompts;

  unsigned kinds() const;
};
CallContents contents_of(std::span<const CudaVariantPlan::Group> groups,
                         std::span<const int32_t> order, int segment_tokens,
                         std::span<const int> slots, int64_t n_in);

}  // namespace deltacome::cuda
