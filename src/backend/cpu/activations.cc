// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/activations.h"

#include "backend/cpu/packed_kernels.h"
#include "backend/cpu/runtime.h"
#include "backend/cpu/vector_rows.h"

namespace deltacome::cpu {

void QuantizedRows::reset(int64_t n_rows, int64_t n, int dim) {
  n_ = n;
  dim_ = dim;
  const int64_t group = dim == 0 ? kActivationGroup : kEntryGroup * dim;
  const int64_t n_groups = ceil_div(n, group);
  const int64_t group_bytes = dim == 0                    ? group
                              : n_rows <= kEntrySumTokens ? kEntryGroup * kEntrySumBytes
                                                          : kEntryGroup * entry_bytes(dim);
  stride_ = spread_stride(n_groups * group_bytes);
  groups_ = ceil_div(n_groups, 16) * 16;
  bytes_.resize(static_cast<size_t>(n_rows * stride_));
  floats_.assign(static_cast<size_t>(2 * n_rows * groups_), 0.0F);  // of groups behind the last
  rows_.resize(static_cast<size_t>(n_rows));
}

void QuantizedRows::set(const PackedKernels& kernels, int64_t r, const float* x,
                        const float* gains) {
  int8_t* bytes = bytes_.data() + r * stride_;
  float* scale = floats_.data() + 2 * r * groups_;
  float* sum = scale + groups_;
  if (dim_ == 0) {
    kernels.quantize({x, gains, n_, bytes, scale, sum});
  } else {
    kernels.quantize_entries({.x = x,
                              .n = n_,
                              .book = &entry_book(dim_),
                              .sums = n_rows() <= kEntrySumTokens,
                              .bytes = bytes,
                              .scale = scale,
                              .sum = sum});
  }
  float total = 0;
  for (int64_t g = 0; g < groups_; ++g) total += sum[g];
  rows_[static_cast<size_t>(r)] = {bytes, scale, sum, total};
}

}  // namespace deltacome::cpu
