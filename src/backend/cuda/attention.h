// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "backend/cuda/context.h"
#include "backend/cuda/device_table.h"
#include "backend/cuda/paged.h"

namespace deltacome::cuda {

/// Positions, block tables and division into work of a batch. Its tables go to the device with the
/// first op that needs them, and what ops make on the way (rotations, partial results) is kept for
/// the next layer. Used by one stream.
class CudaAttentionPlan final : public AttentionPlan {
 public:
  /// `splits`: pieces of keys that launches make room for; 0 = as many as the rows have.
  CudaAttentionPlan(const CudaContext& context, std::span<const SequenceChunk> chunks,
                    int splits = 0);
  /// Other sequences, in the tables of before. For CUDA graphs: with as many single rows and the
  /// same `splits`, launches stay the same as long as generation() does, after refresh().
  void assign(std::span<const SequenceChunk> chunks);
  void refresh(CudaStream& stream) const { table(stream, 0); }
  uint64_t generation() const noexcept { return generation_; }
  /// Rotations are made again with the next op that needs them.
  void forget_rotations() const noexcept { rotations_of_ = nullptr; }

  int64_t n_rows() const noexcept { return n_rows_; }
  /// One more than the largest block that is named.
  int64_t n_blocks() const noexcept { return n_blocks_; }
  bool overlaps() const noexcept { return context_.overlaps; }
  PagedRows rows(CudaStream& stream) const;
  /// cos, then sin of position * inv_freq: [n_rows, 2 * n_freq].
  const float* rotations(CudaStream& stream, const Tensor& inv_freq) const;
  void attention(CudaStream& stream, const Attention& args) const;

 private:
  const int32_t* table(CudaStream& stream, size_t first) const;  // [first] of host_, on the device
  int most_splits(int64_t window) const;

  CudaContext context_;
  int splits_ = 0;
  int64_t n_rows_ = 0, n_blocks_ = 0;
  std::vector<int32_t> singles_;  // rows that are attended to on their own
  std::vector<QueryTile> tiles_;  // the others
  std::vector<int32_t> host_;     // all tables: positions, tables, singles, tiles, blocks
  size_t singles_at_ = 0, tiles_at_ = 0, blocks_at_ = 0;

  mutable DeviceTable device_;  // of host_
  mutable bool sent_ = false;
  mutable uint64_t generation_ = 0;
  mutable Tensor rotations_;
  mutable const void* rotations_of_ = nullptr;  // inv_freq
  mutable Tensor partials_, arrivals_;
};

inline const CudaAttentionPlan& cuda_plan(const AttentionPlan& plan) {
  return static_cast<const CudaAttentionPlan&>(plan);
}

// See Backend.
void rope(CudaStream& stream, const CudaAttentionPlan& plan, const Tensor& x,
          const Tensor& inv_freq);
void store_kv(CudaStream& stream, const CudaAttentionPlan& plan, const Tensor& k, const Tensor& v,
              const Tensor& k_cache, const Tensor& v_cache);
void rope_and_store(CudaStream& stream, const CudaAttentionPlan& plan, const Tensor& q,
                    const Tensor& k, const Tensor& v, const Tensor& inv_freq, const Tensor& k_cache,
                    const Tensor& v_cache);
void attention(CudaStream& stream, const CudaAttentionPlan& plan, const AttentionShape& shape,
               const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, const Tensor& out);

}  // namespace deltacome::cuda
