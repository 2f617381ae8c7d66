// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/runtime.h"

namespace deltacome::cpu {

/// Positions and block tables of a batch.
class CpuAttentionPlan final : public AttentionPlan {
 public:
  struct Chunk {
    int64_t first_row = 0;
    int64_t n_rows = 0;
    int64_t n_past = 0;
    std::vector<int32_t> blocks;
  };

  explicit CpuAttentionPlan(std::span<const SequenceChunk> chunks);
  int64_t n_rows() const noexcept { return n_rows_; }
  std::span<const Chunk> chunks() const noexcept { return chunks_; }
  /// cos, then sin of position * inv_freq: [n_rows, 2 * n_freq]. Kept for the plan's life, since
  /// all layers ask for the same. Called by one thread.
  std::span<const float> rotations(std::span<const float> inv_freq) const;

 private:
  std::vector<Chunk> chunks_;
  int64_t n_rows_ = 0;
  mutable std::vector<float> inv_freq_;
  mutable std::vector<float> rotations_;
};

inline const CpuAttentionPlan& cpu_plan(const AttentionPlan& plan) {
  return static_cast<const CpuAttentionPlan&>(plan);
}

void rope(const Runtime& runtime, const CpuAttentionPlan& plan, const Tensor& x,
          const Tensor& inv_freq);
void store_kv(const Runtime& runtime, const CpuAttentionPlan& plan, const Tensor& k,
              const Tensor& v, const Tensor& k_cache, const Tensor& v_cache);
/// Backend::attention(). A query's result depends on its position and on the keys it sees alone:
/// the same bits for any division of a sequence into chunks.
void attention(const Runtime& runtime, const CpuAttentionPlan& plan, const AttentionShape& shape,
               const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, const Tensor& out);

}  // namespace deltacome::cpu
