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

/// A table's bytes on the host, with pointers into the device memory where they will be.
class TableBytes {
 public:
  template <class T>
  int64_t reserve() {
    return append(nullptr, sizeof(T));
  }
  /// The list with pointers that fix() completes.
  template <class Item>
  WorkList<Item> append(const HostList<Item>& list) {
    WorkList<Item> out;
    out.n = static_cast<int32_t>(list.items.size());
    out.units = list.starts.back();
    out.items = offset<Item>(append(list.items.data(), sizeof(Item) * list.items.size()));
    out.starts = offset<int32_t>(append(list.starts.data(), 4 * list.starts.size()));
    return out;
  }
  template <class Item>
  static void move_to(std::byte* base, WorkList<Item>& list) {
    list.items = reinterpret_cast<const Item*>(base + reinterpret_cast<intptr_t>(list.items));
    list.starts = reinterpret_cast<const int32_t*>(base + reinterpret_cast<intptr_t>(list.starts));
  }
  template <class T>
  void put(int64_t at, const T& value) {
    std::memcpy(bytes_.data() + at, &value, sizeof value);
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  template <class T>
  static const T* offset(int64_t at) {
    return reinterpret_cast<const T*>(static_cast<intptr_t>(at));
  }
  int64_t append(const void* data, size_t n) {
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + n);
    if (data != nullptr && n > 0) std::memcpy(bytes_.data() + at, data, n);
    return static_cast<int64_t>(at);
  }
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
