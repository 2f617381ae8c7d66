// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/context.h"
#include "backend/cuda/delta_layout.h"
#include "backend/cuda/delta_prompt.h"
#include "backend/cuda/device_table.h"
#include "backend/cuda/rows.h"
#include "backend/cuda/variant.h"

namespace deltacome::cuda {

/// Which variant owns which rows of a batch, and the tables in device memory by which kernels find
/// the variants' tensors. One thread at a time; stream-ordered.
///
/// For CUDA graphs: what is captured right after assign() and refresh() can be launched again after
/// later ones, as one piece: tables change in place, launches do not depend on the variants.
/// generation() changes when that does not hold: something had to move, or there are kinds of
/// deltas that the capture did not have. Plans for graphs decode nothing: context.decode_rows
/// has to say so.
class CudaVariantPlan final : public VariantPlan {
 public:
  /// Rows of one variant, next to each other among rows().
  struct Group {
    std::shared_ptr<const DeviceVariant> owner;
    const CudaVariant* variant = nullptr;  // null = base
    int64_t first = 0;
    int64_t n_rows = 0;
    DecodeRows decode_rows = {};  // from which on codes are decoded for them
    const CudaTensor* find(int slot) const noexcept {
      return variant == nullptr ? nullptr : variant->find(slot);
    }
  };
  /// Which kernels a call needs; bits.
  enum Kinds : unsigned {
    kInputs = 1,
    kVectorInputs = 2,
    kShrink = 4,
    kVectors = 8,
    kExpand = 16,
    kPlain = 32,
    kPlainExpand = 64,
    kDense = 128  // among kShrink
  };
  /// A call of add_deltas() for certain slots.
  struct Call {
    DeltaCall table;
    unsigned kinds = 0;
    int64_t n_inputs = 0, n_scales = 0, n_z = 0;  // bytes, pairs, floats
    std::span<const PromptGroup> prompts;         // until the next call of these slots
  };

  /// Tables are written on `stream`; others that use the plan must wait for it.
  CudaVariantPlan(const CudaContext& context, std::span<const VariantSegment> segments,
                  CudaStream& stream);
  /// Other variants and rows, in the tables of before. Call tables follow at refresh() or with
  /// their next use.
  void assign(std::span<const VariantSegment> segments, CudaStream& stream);
  /// Variants live on without this plan; who assigned them holds them as long as it is used.
  void disown();
  /// segment_tokens() of a plan of these segments, if it decodes nothing.
  static int segment_tokens_of(std::span<const VariantSegment> segments);
  /// Brings all call tables up to date: before a captured graph is launched.
  void refresh(CudaStream& stream) const;
  uint64_t generation() const noexcept { return generation_; }

  int64_t n_rows() const noexcept { return n_rows_; }
  /// Whether no row has, or had in an assignment before, a variant.
  bool base_only() const noexcept { return !has_deltas_; }
  std::span<const Group> groups() const noexcept { return groups_; }
  /// In device memory, by row of the batch: the variant's own raw vector of a slot. Null if no row
  /// has one.
  const OwnVector* raw_rows(int slot) const noexcept;
  /// Rows of the batch, group by group, in device memory.
  const int32_t* rows() const noexcept { return reinterpret_cast<const int32_t*>(rows_.data()); }
  /// The same on the host.
  std::span<const int32_t> order() const noexcept { return order_; }
  /// Tokens that a segment has at most: 1, or 1, 2 or 4 tiles of kMaxTokens.
  int segment_tokens() const noexcept { return segment_tokens_; }

  /// Tables of the slots' tensors; n_in is the inputs' width. Written on `stream` if they are not
  /// there.
  Call call(std::span<const int> slots, int64_t n_in, CudaStream& stream) const;
  /// Rows of embeddings with a delta; null if there are none. Until the next call.
  const WorkList<EmbeddingSegment>* embedding(int slot, CudaStream& stream) const;
  /// Ids that the variant of a row has in the table of a slot, whose base has `n_base`.
  int64_t n_ids(int slot, int64_t row, int64_t n_base) const;
  /// Memory of the calls, which follow each other on one stream. Every call with z must run its
  /// expand kernels, which zero the z of the next one; the first one is zeroed here.
  DeltaBuffers buffers(const Call& call, CudaStream& stream) const;

 private:
  struct Known {
    DeviceTable table;
    Call call;
    std::vector<PromptGroup> prompts;
    int64_t n_in = 0;
    uint64_t assigned = 0;  // the assignment that the table is of
  };
  struct KnownEmbedding {
    DeviceTable table;
    WorkList<EmbeddingSegment> list;
    bool empty = true;
    uint64_t assigned = 0;
  };
  void write_rows(CudaStream& stream);
  void update(const std::vector<int>& slots, Known& known, CudaStream& stream) const;
  void reserve(const Call& call) const;
  void moved(bool has_moved) const { generation_ += has_moved ? 1 : 0; }

  CudaContext context_;
  struct Assigned {
    std::weak_ptr<const DeviceVariant> variant;
    bool base = false;
    int64_t n_rows = 0;
  };
  std::vector<Assigned> segments_;
  std::vector<Group> groups_;
  std::vector<int32_t> order_;     // rows of the batch, group by group
  std::vector<int32_t> group_of_;  // of each row of the batch
  int64_t n_rows_ = 0;
  int segment_tokens_ = 1;
  bool has_deltas_ = false;
  DeviceTable rows_, raw_;
  std::vector<int> raw_slots_;  // sorted
  uint64_t assigned_ = 0;
  mutable uint64_t generation_ = 0;
  mutable std::map<std::vector<int>, Known> calls_;
  mutable std::map<int, KnownEmbedding> embeddings_;
  mutable DeviceTable inputs_{Purpose::kWorkspace}, scales_{Purpose::kWorkspace},
      z_{Purpose::kWorkspace};
  mutable int64_t z_floats_ = 0;  // of each of two z, which take turns
  mutable bool z_cleared_ = false, z_turn_ = false;
};

inline const CudaVariantPlan& cuda_plan(const VariantPlan& plan) {
  return static_cast<const CudaVariantPlan&>(plan);
}

}  // namespace deltacome::cuda
