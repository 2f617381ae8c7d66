// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace deltacome::cuda {

// Quantization with error feedback, see CompressionOps::gptq() and quantize_vectors(). All pointers
// are in device memory, matrices row-major f64; launchers return the launch's status. The order of
// columns is that of the factor; `feedback` [n, n] is unit upper triangular, in that order.

/// out[i][j] = h[order[n - 1 - i]][order[n - 1 - j]], `add` more on the diagonal.
cudaError_t launch_permute_reversed(const double* h, const int64_t* order, double add, double* out,
                                    int64_t n, cudaStream_t stream);
/// With the lower triangle G of a = the inverse of that matrix's Cholesky factor, a becomes R,
/// R[i][j] = G[n - 1 - i][n - 1 - j] over its diagonal element, zeros below; pivots [n] = the
/// diagonal.
cudaError_t launch_finish_factor(double* a, double* pivots, int64_t n, cudaStream_t stream);

inline constexpr int kMostSections = 8;  // quant/format.h's kMaxTiers

/// Columns of a section in device memory: which codes and scales it has.
struct GptqSection {
  int64_t first = 0, count = 0;  // columns in their own order
  int bits = 16;
  int64_t scale_rows = 1, scale_cols = 0, per_row = 1;  // extents, not 0
  uint8_t* codes = nullptr;                             // [rows, count]
  uint16_t* scales = nullptr;                           // f16 blocks
  uint16_t* halves = nullptr;                           // 16 bits
};

/// The scale of each block with the least error weighted by diagonal [n], or by 1 if null.
cudaError_t launch_static_scales(const double* w, int64_t rows, int64_t n, const double* diagonal,
                                 const GptqSection& section, int64_t n_scales, cudaStream_t stream);

struct GptqColumns {
  GptqSection sections[kMostSections];
  const int64_t* order = nullptr;    // [n] or null: their own
  const uint8_t* section = nullptr;  // [n]: of the columns in their own order
  double* work = nullptr;    // [rows, n], columns in order; a column that is done = its values
  double* errors = nullptr;  // [rows, kGptqColumns] of the block
  const double* feedback = nullptr;  // [n, n] or null
  int64_t rows = 0, n = 0;
};
inline constexpr int kGptqColumns = 64;  // of a launch: two of each lane
/// Columns [first, first + kGptqColumns), their errors fed forward within the block. Without
/// feedback: all columns, and no errors.
cudaError_t launch_gptq(const GptqColumns& columns, int64_t first, cudaStream_t stream);

/// to[r][j] = from[r][order[j]], or to[r][order[j]] = from[r][j].
cudaError_t launch_take_order(const double* from, const int64_t* order, double* to, int64_t rows,
                              int64_t n, cudaStream_t stream);
cudaError_t launch_undo_order(const double* from, const int64_t* order, double* to, int64_t rows,
                              int64_t n, cudaStream_t stream);

}  // namespace deltacome::cuda
