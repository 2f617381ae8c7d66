// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace deltacome::cuda {

/// SampleParams of one row as kernels read them; temperature > 0.
struct SampleRow {
  double uniform = 0;
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0, vocab_size = 0;
  int32_t row = 0;  // of the logits
};

/// tokens[i] = the smallest index of the largest logit among the first vocab[i] of row i; a NaN is
/// not larger than anything. logits [n, width].
cudaError_t launch_first_largest(const float* logits, int64_t width, const int32_t* vocab, int n,
                                 int32_t* tokens, cudaStream_t stream);

/// Draws of n rows. The arrays are in device memory, their contents undefined.
struct Draw {
  const float* logits = nullptr;  // [*, width]
  int64_t width = 0;
  const SampleRow* rows = nullptr;  // [n]
  int n = 0;
  float* keys = nullptr;      // [2, n, width]
  int32_t* ids = nullptr;     // [2, n, width]
  int32_t* ends = nullptr;    // [2, n]: where each row's candidates begin and end
  void* temporary = nullptr;  // of draw_temporary_bytes()
  size_t temporary_bytes = 0;
};
cudaError_t draw_temporary_bytes(int64_t width, int n, size_t& bytes);
/// tokens[rows[i].row] = a draw, where its largest logit is finite; the other tokens are left
/// alone. n * width < 2^31.
cudaError_t launch_draw(const Draw& args, int32_t* tokens, cudaStream_t stream);

}  // namespace deltacome::cuda
