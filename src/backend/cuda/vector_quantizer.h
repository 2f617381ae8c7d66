// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

// Coding by entries of a code book with error feedback, see CompressionOps::quantize_vectors(). All
// pointers are in device memory, matrices row-major f64; launchers return the launch's status.

inline constexpr int kMostDim = 16;    // of a code book
inline constexpr int kMostPanel = 72;  // columns of a panel: whole groups, about 64
inline constexpr int kVectorEntries = 256;

/// Everything about the groups of `dim` columns that a row needs to be coded.
struct VectorGroups {
  int dim = 8;
  int64_t n = 0;                     // columns
  const int8_t* book = nullptr;      // [256, dim]
  const double* feedback = nullptr;  // [n, n] of the factor, or null
  const double* pivots = nullptr;    // [n] of the factor
  double* inverse = nullptr;         // [groups, kMostDim * kMostDim]: of the group's own block
  float* metric = nullptr;           // [groups, kMostDim * kMostDim]: M
  float* half_norms = nullptr;       // [groups, 256]: e M e^T / 2
};
/// Fills in inverse, metric and half_norms of all groups.
cudaError_t launch_make_groups(const VectorGroups& groups, cudaStream_t stream);

/// to [panel columns, n]: what the errors of the columns [first, first + count) do to each column
/// behind their own group, R_g^-1 R[g, :]. Other elements are left alone.
cudaError_t launch_group_feedback(const VectorGroups& groups, int64_t first, int64_t count,
                                  double* to, cudaStream_t stream);

/// scales[r] = the root mean square of row r as f16, at least 2^-24.
cudaError_t launch_row_scales(const double* w, int64_t rows, int64_t n, uint16_t* scales,
                              cudaStream_t stream);

struct VectorPanel {
  VectorGroups groups;
  int64_t first = 0, count = 0;  // columns
  int64_t rows = 0;
  const double* feedback = nullptr;  // [count, n] of launch_group_feedback(), or null
  const uint16_t* scales = nullptr;  // [rows]
  double* work = nullptr;            // [rows, n]: a column that is done holds its values
  double* errors = nullptr;          // [rows, kMostPanel]
  uint8_t* codes = nullptr;          // [rows, ceil(n / dim)]
};
cudaError_t launch_code_panel(const VectorPanel& panel, cudaStream_t stream);

}  // namespace deltacome::cuda
